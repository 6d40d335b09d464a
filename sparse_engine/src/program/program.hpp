// A straight line of operations over one arena, for one number of samples: built once, run many times.
#pragma once

#include <functional>
#include <memory>

#include "operations/caches.hpp"
#include "operations/convolution.hpp"
#include "operations/operations.hpp"

namespace sparse {

// What may differ from one run to the next.
struct Settings {
  float momentum = -1.0f;       // of the running statistics; negative: they stay
  float share = 1.0f;           // of the loss's gradient
  std::vector<int64_t> labels;  // read by a loss alone
  Objective objective = Objective::cross_entropy;
  uint64_t seed = 0;
};

class Program {
 public:
  Program(std::shared_ptr<Arena> arena, std::shared_ptr<Pool> pool, int samples);
  Program(const Program&) = delete;  // its operations refer to it
  Program& operator=(const Program&) = delete;

  static int lanes_for(int samples);  // throws std::invalid_argument

  // -- building; all that returns nothing appends an operation, or throws std::invalid_argument ---
  int tensor(int channels, int height, int width, ptrdiff_t offset, bool packed);
  int norm(std::shared_ptr<Norm> norm);
  int convolution(const ConvShape& shape, std::shared_ptr<Weights> weights, float dense_from);

  void forward(int convolution, const View& input, int output, int norm);  // norm >= 0: of the batch, finished
  void backward(int convolution, const BackwardWants& wants);
  void batch_statistics(int tensor, int norm);
  void running_statistics(int norm);
  void norm_gradient(int gradient, const View& view);
  void combine(const View& a, const View& b, int out, Act act, float gain);
  void slope_by_output(int gradient, int output, Act act, float gain);
  void view_gradient(int gradient, const View& view, int out, bool add);
  void pool(const View& input, int out, const PoolShape& shape, bool max);
  void pool_gradient(int gradient, const View& input, int out, const PoolShape& shape, bool max, bool add);
  void concatenate(const View& input, int out, int first);
  void concatenate_gradient(int gradient, int first, int out, bool add);
  void multiply(const View& a, const View& b, int out);
  void multiply_gradient(int gradient, const View& other, int out, bool add);
  void take(const View& input, int out, std::vector<int> channels);
  void take_gradient(int gradient, int out, std::vector<int> channels, bool add);
  void crop(const View& input, int out, int top, int left);
  void crop_gradient(int gradient, int out, int top, int left, bool add);
  void dropout(int tensor, float rate, uint64_t stream);
  void loss(int logits, int gradient);
  // Pruned copies, `keep` < 1, and copies of an activation's derivative.
  int cache(int like, ptrdiff_t offset, ptrdiff_t floats, bool half);
  void compress(const View& view, float keep, int cache);
  void expand(int cache, int out);
  void encode(const View& view, int cache);
  void decode(int cache, Act act, float gain, int out);
  // From the gradient of a normalised tensor's reading, already through its activation, and the pruned tensor.
  void pruned_norm_gradient(int gradient, int tensor, int norm);
  int size() const { return static_cast<int>(operations_.size()); }

  // -- running -------------------------------------------------------------------------
  int samples() const { return context_.samples(); }
  ptrdiff_t floats();  // of the arena, scratch included
  void begin(const float* samples, int tensor);
  void release();  // what it holds outside of the arena, until it begins again
  LossSums run(int first, int last, const Settings& settings);
  void output(int tensor, float* samples);
  // At a `backward` operation that has not run yet: see Convolution::dense_gradient.
  void dense_gradient(int operation, int first, int last, float* out);
  size_t dense_gradient_size(int operation, int first, int last) const;

  const Context& context() const { return context_; }
  const std::vector<Use*>& uses() const { return uses_; }  // all that running it works on

  Use use;

 private:
  struct Operation {
    std::function<void(const Settings&)> work;
    int convolution = kNone;
    BackwardWants wants{};
    bool backward = false;
    int classes = 0;  // of a loss
  };
  void append(std::function<void(const Settings&)> work) {
    operations_.emplace_back();
    operations_.back().work = std::move(work);
  }
  const View& checked(const View& view) const;
  Cache& cache_of(int id, int tensor) const;
  Convolution& convolution_of(int id) const;
  const Operation& backward_operation(int id) const;
  int known(int tensor) const;
  int known_norm(int norm, int tensor) const;
  void shaped(int tensor, int channels, int height, int width, const char* why) const;
  void require_codes(const Cache& cache, Act act) const;
  void check_labels(const Settings& settings, int classes) const;
  void uses(Use& other);
  Norm& norm_of(int id) const { return *context_.norms[static_cast<size_t>(id)]; }
  void same(int a, int b) const;
  bool spread(int whole, int part) const;
  void check_crop(int whole, int part, int top, int left) const;
  void check_taken(const std::vector<int>& channels, int from, int to) const;
  double count(int tensor) const;
  float bound(const BackwardWants& wants) const;
  double* sums(int parts, int channels);
  Moments* moments(int parts, int channels);
  void scratch(ptrdiff_t floats);
  void require_values();

  std::shared_ptr<Arena> arena_;
  std::shared_ptr<Pool> pool_;
  Context context_;
  std::vector<Use*> uses_;
  std::vector<std::unique_ptr<Convolution>> convolutions_;
  std::vector<Operation> operations_;
  std::vector<std::unique_ptr<Cache>> caches_;
  std::vector<double> sums_;
  std::vector<Moments> moments_;
  LossSums loss_;
  ptrdiff_t tensor_floats_ = 0, scratch_floats_ = 0;
};

}  // namespace sparse
