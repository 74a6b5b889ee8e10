// Rows sorted by label, so that the positives of a row are one contiguous range of columns.
#pragma once

#include <cstdint>
#include <vector>

namespace fastdml {

// Permutation that sorts the labels, equal labels in input order.
void sort_by_label(const int64_t *labels, int64_t count, int64_t *order);

// For every sorted row, where its label starts and ends among the other side's sorted labels.
void positive_spans(const int64_t *labels, const int64_t *order, int64_t count, const int64_t *other_labels,
                    const int64_t *other_order, int64_t other_count, int32_t *start, int32_t *end);

struct BlockPair {
  int64_t row, column;
};

// Pairs of blocks in rounds: no block stands twice in a round, on either side for self-pairs, so the pairs of
// a round run in parallel and every row gathers its sums in the same order whatever the number of threads.
// For self-pairs the first round pairs each block with itself and the others are a round-robin tournament,
// row <= column; else they are a Latin square.
class Rounds {
public:
  Rounds(int64_t row_blocks, int64_t column_blocks, bool self)
      : row_blocks_(row_blocks), column_blocks_(column_blocks), self_(self) {}

  int64_t count() const;
  std::vector<BlockPair> pairs(int64_t round) const;

private:
  int64_t row_blocks_, column_blocks_;
  bool self_;
};

} // namespace fastdml
