// What every operation of a program works in: the arena, the threads, the tensors.
#pragma once

#include <memory>
#include <vector>

#include "layers/band.hpp"
#include "threads/pool.hpp"
#include "threads/use.hpp"

namespace sparse {

// Page-aligned memory that goes back to the system when it is freed.
class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // At least so many floats; contents are lost when it has to grow, and are then zero. Throws std::bad_alloc.
  float* ensure(ptrdiff_t floats);
  ptrdiff_t floats() const { return floats_; }
  void release();

  const void* holder = nullptr;  // the program whose values lie in it
  Use use;

 private:
  float* base_ = nullptr;
  ptrdiff_t floats_ = 0;
};

struct Context {
  float* base = nullptr;
  Pool* pool = nullptr;
  int lanes = 1, blocks = 1;
  std::vector<Tensor> tensors;
  std::vector<std::shared_ptr<Norm>> norms;
  ptrdiff_t scratch_offset = 0, scratch_floats = 0;  // of each share

  int samples() const { return lanes * blocks; }
  const Tensor& tensor(int id) const { return tensors[static_cast<size_t>(id)]; }
  // Values of one image block.
  float* at(int id, int block) const {
    const Tensor& t = tensor(id);
    return base + t.offset + block * t.stride * t.channels;
  }
  ptrdiff_t plane(int id) const {  // floats of a channel of a block
    const Tensor& t = tensor(id);
    return static_cast<ptrdiff_t>(t.height) * t.width * lanes;
  }
  ptrdiff_t stride(int id) const { return tensor(id).stride; }
  float* channel(int id, int block, int c) const { return at(id, block) + c * stride(id); }
  float* scratch(int share) const { return base + scratch_offset + share * scratch_floats; }
  Plane plane_of(int id, int block) const {
    const Tensor& t = tensor(id);
    return {at(id, block), t.stride, t.width, lanes};
  }
  std::vector<Reading> readings(const View& view) const;
};

}  // namespace sparse
