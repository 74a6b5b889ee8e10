// Exact ranks of positives on the CPU: blocks of similarities by torch's matrix product, and one counting
// pass over each block while it is in cache. Nothing here grows with queries x gallery.
#pragma once

#include <cstdint>

namespace fastdml {

// Rows of both sides sorted by label. Positives of a query are the gallery rows of its label, without itself
// and without those of its camera, where cameras are given; negatives are the rows of other labels, without
// itself.
template <typename T> struct RankProblem {
  int64_t width, queries, gallery;
  const T *query_rows, *gallery_rows;           // [queries, width], [gallery, width]
  const int32_t *start, *end;                   // [queries], span of the gallery rows of the same label
  const int32_t *own;                           // [queries], gallery row that the query itself is, or -1
  const int64_t *query_camera, *gallery_camera; // null: no cameras
  const T *slack;                               // [queries], how far below a positive a negative still ties
  const int64_t *offset;                        // [queries + 1], where a query's ranks start
  bool self;                                    // the gallery is the queries
};

// For each query from offset[q] on the ranks of its positives, ascending, then zeros in the places of the
// gallery rows of its label that are not positives.
template <typename T> void rank_positives(const RankProblem<T> &problem, int32_t *ranks);

} // namespace fastdml
