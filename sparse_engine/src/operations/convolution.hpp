// Convolution of any kernel, stride, padding and grouping; a linear layer is one of 1x1 images.
//
// A thread works on one chunk of rows of one image block at a time (of a grouped convolution on few groups): it
// reads them into a band in its scratch memory and lets the kernels run over the nonzero weights, forwards (from
// the input's band), to the input's gradient (from the output gradient's band, with the weights transposed), and to
// the weights' gradient (both).
#pragma once

#include <algorithm>
#include <memory>

#include "layers/band.hpp"
#include "layers/weights.hpp"
#include "operations/context.hpp"

namespace sparse {

// Where the backward pass takes things from, and what it is to compute. A gradient of -1 is not wanted.
struct BackwardWants {
  View output;          // how the output is read by those who gave the gradient
  int output_gradient;  // of that reading
  View input;           // as the forward pass read it, for the weight gradient
  int input_gradient = kNone;
  int added = kNone;  // added to the input gradient; may be the same tensor
  bool weight_gradient = true;
  float keep = 1.0f;           // the weight gradient sees this share of the input, its largest entries
  bool norm_gradient = false;  // the input gradient is then whole: reduce it for the input's norm
};

class Convolution {
 public:
  // With at least the share `dense_from` of all weights the dense kernels are used.
  Convolution(const ConvShape& shape, std::shared_ptr<Weights> weights, int lanes, float dense_from);

  const ConvShape& shape() const { return shape_; }
  void release();  // the lists of taps, which come back when they are needed
  // Floats of scratch that a share of the work needs.
  ptrdiff_t scratch(bool backward);
  // Parts of the moments that `forward` leaves.
  int parts(const Context& context) const { return context.blocks * chunks_; }
  int64_t most_items(int64_t blocks) const { return blocks * slices_ * std::max(chunks_, back_chunks_); }

  // `moments` (null: not wanted) of the output are [parts][out_channels].
  void forward(const Context& context, const View& input, int output, Moments* moments);
  // `sums` (null: not wanted) are those of the input's norm, as in `reduce_gradient`: [back_parts][in_channels][2].
  // Of the input the weight gradient sees what reaches `bound`.
  void backward(const Context& context, const BackwardWants& wants, float bound, double* sums);
  int back_parts(const Context& context) const { return context.blocks * back_chunks_; }
  // The whole gradient of the weights of outputs [first, last), pruned positions included, added to `out`.
  void dense_gradient(const Context& context, const BackwardWants& wants, float bound, int first, int last,
                      float* out);

 private:
  // The taps of one direction. Sparse: bounds by group and output, one offset and value a weight. Dense: one
  // offset a tap, values packed by kDenseOutputs.
  struct TapSet {
    std::vector<int32_t> bounds, offset, source;
    std::vector<float> value;
    int groups = 1, group_taps = 1;
  };
  // How a share's scratch memory is used, in floats from its beginning.
  struct Scratch {
    ptrdiff_t input, gradient;  // bands
    ptrdiff_t temporary;        // rows that cannot be computed where they belong
    ptrdiff_t sums;             // of the weights' gradient, then the bias's
    ptrdiff_t total;
  };

  bool dense_forward() const { return dense_ && shape_.out_channels % kDenseOutputs == 0; }
  bool dense_backward() const { return dense_ && shape_.in_channels % kDenseOutputs == 0; }
  int group_channels(int channels, double taps_per_channel, int kernel_h, int kernel_w) const;
  void refresh();  // offsets, after the positions changed
  void refresh_sparse();
  void refresh_dense();
  void pack_dense();  // the values that the forward pass reads
  void refresh_transposed();
  void build_transposed_sparse();
  void build_transposed_dense();
  // Part of the work: a chunk of rows of a slice of channels of a block.
  struct Item {
    int block, first, advance, part;
    Slice slice;
  };
  // How rows are computed that are no whole vectors: each rounded up, or all as one run of the band's rows with
  // what lies between them, whichever takes fewer vectors.
  struct Padded {
    ptrdiff_t pitch;
    Rows region;
  };
  static Padded padded(ptrdiff_t run, int rows, ptrdiff_t band_pitch);
  Item item(int index, int begin, int chunks) const;
  Slice slice(int index) const;
  int slice_of_output(int o) const { return o / shape_.group_out() / slice_groups_; }
  int slice_of_input(int c) const { return c / shape_.group_in() / slice_groups_; }
  Scratch scratch_layout(bool backward) const;
  size_t gradient_sums() const;  // how many the kernels leave of the weights' gradient
  void input_gradient(const Context& context, const BackwardWants& wants, const float* gradient, float* temporary,
                      const Item& item);
  void weight_gradient(const float* gradient, const float* input, const Item& item, float* sums);
  void add_gradient(const float* sums);
  void reduce_input(const Context& context, const BackwardWants& wants, const Item& item, double* sums);
  std::vector<Slope> slopes(const Context& context, const BackwardWants& wants) const;

  ConvShape shape_;
  std::shared_ptr<Weights> weights_;
  int lanes_;
  float dense_from_;
  int slice_groups_ = 1, slices_ = 1;             // groups of a slice, and slices of a block
  int chunk_ = 1, chunks_ = 1, back_chunks_ = 1;  // rows of a chunk, and chunks of a slice
  Band band_;
  GradientBand gradient_band_;
  long version_ = -1, transposed_version_ = -1;
  bool dense_ = false;
  TapSet taps_;                     // of the input's band
  std::vector<TapSet> transposed_;  // of the gradient's band, one a stride class
};

}  // namespace sparse
