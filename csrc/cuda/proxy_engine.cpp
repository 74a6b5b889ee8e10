#include "cuda/proxy_engine.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#include "cuda/matrix_product.h"

#ifndef FASTDML_CUDA_PROXY_SIMILARITIES // tests make the blocks small
#define FASTDML_CUDA_PROXY_SIMILARITIES (1 << 23)
#define FASTDML_CUDA_PROXY_SAMPLES 2048
#endif

namespace fastdml::cuda {
namespace {

using torch::stable::Tensor;

// 32 MB of fp32 similarities stay in the L2 of a data-centre GPU; few samples meet many classes at once.
constexpr int64_t most_similarities = FASTDML_CUDA_PROXY_SIMILARITIES;
constexpr int64_t most_samples = FASTDML_CUDA_PROXY_SAMPLES;
constexpr int64_t most_packed = 2 * most_similarities; // coordinates of a chunk of centres
constexpr int64_t stride_alignment = 64;               // elements
constexpr int64_t lanes = 32, busy = 8192; // parts of the classes at most; warps that fill a device

int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

Tensor part(Tensor all, int64_t dim, int64_t first, int64_t count) {
  return torch::stable::narrow(all, dim, first, count);
}

Tensor transposed(const Tensor &matrix) { return torch::stable::transpose(matrix, 0, 1); }

template <typename T> T *data(const Tensor &tensor) { return static_cast<T *>(tensor.mutable_data_ptr()); }
template <typename T> const T *const_data(const Tensor &tensor) {
  return static_cast<const T *>(tensor.const_data_ptr());
}

// The chunks and blocks of one call, in memory that is reused.
template <typename T, typename Input> class ProxySweep {
public:
  explicit ProxySweep(const ProxyCall<T, Input> &call)
      : call_(call), per_class_(call.problem.per_class), width_(call.rows.size(1)),
        samples_(std::min(
            {call.problem.samples, most_samples, std::max<int64_t>(1, most_similarities / per_class_)})),
        classes_(classes_of_a_chunk()), stride_(round_up(classes_ * per_class_, stride_alignment)),
        packed_(new_centres(true)), similarities_(torch::stable::new_empty(call.rows, {samples_, stride_})) {}

  // Calls visit(chunk, its packed centres [K classes, D]) for every chunk of classes, in stream order.
  template <typename Visit> void for_each_chunk(const T *norms, const Visit &visit) const {
    for (int64_t first = 0; first < call_.classes; first += classes_) {
      const ClassChunk chunk{first, std::min(classes_, call_.classes - first), per_class_, width_};
      pack_centres(call_.centres, chunk, norms, data<T>(packed_), call_.stream);
      visit(chunk, part(packed_, 0, 0, chunk.centres()));
    }
  }

  // Calls visit(block, its similarities [rows, K classes]) for every block of samples.
  template <typename Visit>
  void for_each_block(const ClassChunk &chunk, const Tensor &packed, const Visit &visit) const {
    const Tensor columns = transposed(packed), memory = part(similarities_, 1, 0, chunk.centres());
    for (int64_t row = 0; row < call_.problem.samples; row += samples_) {
      const int64_t rows = std::min(samples_, call_.problem.samples - row);
      const Tensor similarities = part(memory, 0, 0, rows);
      product(similarities, part(call_.rows, 0, row, rows), columns);
      visit(ProxyBlock<T>{data<T>(similarities_), stride_, row, chunk.first, static_cast<int>(rows),
                          static_cast<int>(chunk.classes)},
            similarities);
    }
  }

  // How many warps share a sample: as many as keep the device busy and find a run of classes each.
  int parts() const {
    return static_cast<int>(
        std::min({lanes, round_up(classes_, lanes) / lanes, round_up(busy, samples_) / samples_}));
  }

  // Memory for the packed centres of a chunk, or for none.
  Tensor new_centres(bool any) const {
    return torch::stable::new_empty(call_.rows, {any ? classes_ * per_class_ : 0, width_});
  }

private:
  int64_t classes_of_a_chunk() const {
    const int64_t centres = std::min(most_similarities / samples_, most_packed / width_);
    return std::clamp<int64_t>(centres / per_class_, 1, call_.classes);
  }

  const ProxyCall<T, Input> &call_;
  const int64_t per_class_, width_, samples_, classes_, stride_;
  const Tensor packed_;       // [K classes, D]
  const Tensor similarities_; // [samples, stride]
};

// sum = a b for the first block that adds to it, else sum += a b: so nobody clears it before.
void accumulate(const Tensor &sum, const Tensor &a, const Tensor &b, bool first) {
  if (first)
    product(sum, a, b);
  else
    add_product(sum, a, b);
}

} // namespace

template <typename T, typename Input>
void proxy_forward(const ProxyCall<T, Input> &call, const ProxyOutput<T> &output) {
  const ProxyProblem<T> &problem = call.problem;
  const int64_t width = call.rows.size(1);
  const ProxySweep<T, Input> sweep(call);
  const int64_t length = problem.samples * sweep.parts();
  const Tensor gathered = torch::stable::new_empty(call.rows, {4, length});
  T *state = data<T>(gathered);
  const ProxyState<T> states{state, state + length, state + 2 * length, state + 3 * length, sweep.parts()};
  const Tensor poison = torch::stable::new_zeros(call.rows, {1});

  measure_centres(call.centres, call.classes * problem.per_class, width, call.normalised, output.norms,
                  data<T>(poison), call.stream);
  sweep.for_each_chunk(output.norms, [&](const ClassChunk &chunk, const Tensor &packed) {
    if (output.spread)
      sum_distances(chunk, const_data<T>(packed), output.spread + chunk.first, call.stream);
    sweep.for_each_block(chunk, packed, [&](const ProxyBlock<T> &block, const Tensor &) {
      gather_statistics(problem, block, states, call.stream);
    });
  });
  finish_statistics(problem, states, const_data<T>(call.rows), width, const_data<T>(poison), output.others,
                    output.target, output.total, call.stream);
}

template <typename T, typename Input>
void proxy_backward(const ProxyCall<T, Input> &call, const ProxyGradients<T> &grads, const T *grad_spread,
                    const T *norms, const Tensor &grad_rows, StoredCentres<Input> grad_centres) {
  const bool want_rows = grad_rows.numel() > 0, want_centres = grad_centres.data != nullptr;
  const ProxySweep<T, Input> sweep(call);
  const Tensor memory = sweep.new_centres(want_centres);
  sweep.for_each_chunk(norms, [&](const ClassChunk &chunk, const Tensor &packed) {
    const Tensor packed_grads = part(memory, 0, 0, want_centres ? chunk.centres() : 0);
    sweep.for_each_block(chunk, packed, [&](const ProxyBlock<T> &block, const Tensor &weights) {
      weigh_similarities(call.problem, block, grads, call.stream);
      if (want_rows)
        accumulate(part(grad_rows, 0, block.row, block.rows), weights, packed, chunk.first == 0);
      if (want_centres)
        accumulate(packed_grads, transposed(weights), part(call.rows, 0, block.row, block.rows),
                   block.row == 0);
    });
    if (!want_centres)
      return;
    T *sums = data<T>(packed_grads);
    if (grad_spread)
      add_distance_gradients(chunk, const_data<T>(packed), grad_spread + chunk.first, sums, call.stream);
    unpack_gradients(chunk, sums, const_data<T>(packed), norms, call.normalised, grad_centres, call.stream);
  });
}

#define FASTDML_FOR_INPUT(T, Input)                                                                          \
  template void proxy_forward<T, Input>(const ProxyCall<T, Input> &, const ProxyOutput<T> &);                \
  template void proxy_backward<T, Input>(const ProxyCall<T, Input> &, const ProxyGradients<T> &, const T *,  \
                                         const T *, const Tensor &, StoredCentres<Input>);
#define FASTDML_FOR_ACCUMULATOR(T)                                                                           \
  FASTDML_FOR_INPUT(T, float)                                                                                \
  FASTDML_FOR_INPUT(T, double)                                                                               \
  FASTDML_FOR_INPUT(T, torch::headeronly::Half)                                                              \
  FASTDML_FOR_INPUT(T, torch::headeronly::BFloat16)
FASTDML_FOR_ACCUMULATOR(float)
FASTDML_FOR_ACCUMULATOR(double)

} // namespace fastdml::cuda
