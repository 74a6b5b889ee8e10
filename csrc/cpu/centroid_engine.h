// The centroid engine on the CPU: blocks of rows against points by torch's matrix product, and passes over
// each while it is in cache. Nothing here grows with rows x points.
#pragma once

#include <cstdint>

namespace fastdml {

template <typename T> struct CentroidProblem {
  int64_t rows, points, width;
  const T *row;   // [rows, width]
  const T *point; // [points, width]
};

// found [rows, k], -1 where there are fewer.
template <typename T>
void nearest_others(const CentroidProblem<T> &problem, const int64_t *labels, const int64_t *point_labels,
                    int64_t k, int64_t *found);

template <typename T>
void hinge_sums(const CentroidProblem<T> &problem, const int64_t *own, const T *limits, T *sums, T *counts);

// Gradients of rows and points, which start as zeros; null for one not needed.
template <typename T>
void hinge_gradients(const CentroidProblem<T> &problem, const T *grad, const int64_t *own, const T *limits,
                     T *grad_rows, T *grad_points);

// distances [rows, count], 0 where `listed` is -1.
template <typename T>
void listed_distances(const CentroidProblem<T> &problem, const int64_t *listed, int64_t count, T *distances);

// Gradients of rows and points, which start as zeros; null for one not needed.
template <typename T>
void listed_gradients(const CentroidProblem<T> &problem, const T *grad, const int64_t *listed, int64_t count,
                      const T *distances, T *grad_rows, T *grad_points);

// sums [classes, width] of the rows of every label; those outside [0, classes) are left out.
template <typename T, typename Sum>
void class_sums(const T *row, int64_t rows, int64_t width, const int64_t *labels, int64_t classes, Sum *sums);

} // namespace fastdml
