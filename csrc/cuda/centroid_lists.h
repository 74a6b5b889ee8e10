// Rows and the points that they list, and sums of what belongs to one point or class. All pointers are device
// memory.
#pragma once

#include <cstdint>

#include "cuda/stream.h"

namespace fastdml::cuda {

template <typename T> struct ListedPoints {
  const T *rows, *points;         // [B, D], [P, D]
  const int64_t *listed;          // [B, S], an index outside [0, P) is none
  int64_t samples, length, count; // B, S, P
  int64_t width;                  // D
};

// Numbers from 0 up to `entries`, sorted by the group that each belongs to, in their own order within one.
// Groups outside [0, count) are left out.
struct SortedGroups {
  const int64_t *groups, *order; // [entries]
  int64_t entries, count;
};

// The distances [B, S] of rows to their points, from differences; 0 to none.
template <typename T> void measure_listed(const ListedPoints<T> &listed, T *distances, Stream stream);

// The gradients of rows [B, D], from those of the distances [B, S].
template <typename T>
void gather_row_gradients(const ListedPoints<T> &listed, const T *grad, const T *distances, T *grad_rows,
                          Stream stream);

// Likewise of points [P, D]; `sorted` are the entries of `listed`, by the point that they name.
template <typename T>
void gather_point_gradients(const ListedPoints<T> &listed, const T *grad, const T *distances,
                            const SortedGroups &sorted, T *grad_points, Stream stream);

// The sums [count, width] of the rows [entries, width] of every group, which is summed in float64.
template <typename T, typename Sum>
void sum_groups(const T *rows, int64_t width, const SortedGroups &sorted, Sum *sums, Stream stream);

} // namespace fastdml::cuda
