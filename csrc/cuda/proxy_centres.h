// Passes over the centres of classes: into rows as they are compared, and from gradients of those back to the
// parameter. All pointers are device memory.
#pragma once

#include <cstdint>

#include "cuda/stream.h"

namespace fastdml::cuda {

// Centres as they are stored, or their gradient: those of one class together, coordinate d of centre j at
// data[j * centre_stride + d * width_stride].
template <typename Input> struct StoredCentres {
  Input *data;
  int64_t centre_stride, width_stride;
};

// Consecutive classes, in both layouts. Packed, centre k of the chunk's class c is row k * classes + c, so
// that the similarities of neighbouring classes lie side by side.
struct ClassChunk {
  int64_t first, classes; // the first class, and how many
  int64_t per_class;
  int64_t width;

  int64_t first_centre() const { return first * per_class; }
  int64_t centres() const { return classes * per_class; }
};

// norms[j] = the length of centre j of `count`, 1 where they are not normalised; *poison becomes NaN where a
// centre is not finite.
template <typename T, typename Input>
void measure_centres(StoredCentres<const Input> stored, int64_t count, int64_t width, bool normalised,
                     T *norms, T *poison, Stream stream);

// The chunk's centres over their norms, packed; `norms` [C K] are those of all centres.
template <typename T, typename Input>
void pack_centres(StoredCentres<const Input> stored, const ClassChunk &chunk, const T *norms, T *packed,
                  Stream stream);

// spread[c] = the summed distances between the centres of the chunk's class c.
template <typename T> void sum_distances(const ClassChunk &chunk, const T *packed, T *spread, Stream stream);

// packed_grads += the gradients of those distances, times grad_spread[c].
template <typename T>
void add_distance_gradients(const ClassChunk &chunk, const T *packed, const T *grad_spread, T *packed_grads,
                            Stream stream);

// The gradients of the chunk's centres as stored, from those of the packed centres: of normalised ones the
// part that turns the centre, over its norm; centres too short to be normalised were divided by a constant.
template <typename T, typename Input>
void unpack_gradients(const ClassChunk &chunk, const T *packed_grads, const T *packed, const T *norms,
                      bool normalised, StoredCentres<Input> grads, Stream stream);

} // namespace fastdml::cuda
