// Convolution of any kernel, stride, padding and grouping; a linear layer is one of 1x1 images.
#pragma once

#include <memory>

#include "band.hpp"
#include "context.hpp"
#include "weights.hpp"

namespace sparse {

// Where the backward pass takes things from, and what it is to compute. A gradient of -1 is not wanted.
struct BackwardWants {
  View output;            // how the output is read by those who gave the gradient
  int output_gradient;    // of that reading
  View input;             // as the forward pass read it, for the weight gradient
  int input_gradient = -1;
  int added = -1;         // added to the input gradient; may be the same tensor
  bool weight_gradient = true;
};

class Convolution {
 public:
  Convolution(const ConvShape& shape, std::shared_ptr<Weights> weights, int lanes);

  const ConvShape& shape() const { return shape_; }
  // Floats of scratch that a thread needs.
  ptrdiff_t scratch(bool backward) const;
  // Parts of the sums that `forward` leaves: [parts][out_channels][2].
  int parts(const Context& context) const { return context.blocks * chunks_; }

  // `sums` (null: not wanted) are moments of the output about `center`.
  void forward(const Context& context, const View& input, int output, const float* center, double* sums);
  void backward(const Context& context, const BackwardWants& wants);
  // The whole gradient of the weights of outputs [first, last), pruned positions included, added to `out`.
  void dense_gradient(const Context& context, const BackwardWants& wants, int first, int last, float* out);

 private:
  struct BackwardItem;
  void refresh();            // offsets, after the positions changed
  void refresh_transposed();
  void input_gradient(const Context& context, const BackwardWants& wants, const BackwardItem& item);
  void weight_gradient(const Context& context, const BackwardItem& item, float* sums, float* bias_sums);
  std::vector<Slope> slopes(const Context& context, const BackwardWants& wants) const;

  ConvShape shape_;
  std::shared_ptr<Weights> weights_;
  int lanes_;
  Band band_;            // of a forward chunk
  int chunk_ = 1, chunks_ = 1;
  Band back_band_;       // the input's, of a backward chunk
  GradientBand gradient_band_;
  int back_chunk_ = 1, back_chunks_ = 1;
  long version_ = -1, transposed_version_ = -1;
  bool dense_ = false;
  std::vector<int32_t> offset_, back_offset_;  // of each weight in the forward and the backward input band
  // By input channel and stride class, the taps in the gradient's band.
  std::vector<int32_t> transposed_row_, transposed_offset_, transposed_source_;
  std::vector<float> transposed_value_;
};

}  // namespace sparse
