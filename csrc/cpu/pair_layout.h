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

// Pairs of blocks in rounds: no block stands twice in a round, on either side for self-pairs, so the pairs of a round
// run in parallel and every row gathers its sums in the same order whatever the number of threads.
struct BlockPair {
  int64_t row, column;
};
using Rounds = std::vector<std::vector<BlockPair>>;

// Every unordered pair of `blocks` blocks, each block with itself in the first round (a round-robin tournament).
Rounds self_rounds(int64_t blocks);

// Every pair of a row block and a column block (a Latin square).
Rounds cross_rounds(int64_t row_blocks, int64_t column_blocks);

} // namespace fastdml
