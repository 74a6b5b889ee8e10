#include "cpu/pair_layout.h"

#include <algorithm>
#include <numeric>

namespace fastdml {

void sort_by_label(const int64_t *labels, int64_t count, int64_t *order) {
  std::iota(order, order + count, int64_t(0));
  if (std::is_sorted(labels, labels + count))
    return;
  std::vector<std::pair<int64_t, int64_t>> keyed(count);
  for (int64_t i = 0; i < count; ++i)
    keyed[i] = {labels[i], i};
  std::sort(keyed.begin(), keyed.end());
  for (int64_t i = 0; i < count; ++i)
    order[i] = keyed[i].second;
}

void positive_spans(const int64_t *labels, const int64_t *order, int64_t count, const int64_t *other_labels,
                    const int64_t *other_order, int64_t other_count, int32_t *start, int32_t *end) {
  int64_t low = 0, high = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t label = labels[order[i]];
    while (low < other_count && other_labels[other_order[low]] < label)
      ++low;
    high = std::max(high, low);
    while (high < other_count && other_labels[other_order[high]] == label)
      ++high;
    start[i] = static_cast<int32_t>(low);
    end[i] = static_cast<int32_t>(high);
  }
}

Rounds self_rounds(int64_t blocks) {
  Rounds rounds(1);
  for (int64_t i = 0; i < blocks; ++i)
    rounds[0].push_back({i, i});
  // The circle method: seat 0 stays, the others turn by one seat a round; an odd number plays against a bye.
  const int64_t seats = blocks + blocks % 2;
  for (int64_t round = 0; round + 1 < seats; ++round) {
    rounds.emplace_back();
    for (int64_t k = 0; k < seats / 2; ++k) {
      const int64_t turning = seats - 1;
      const int64_t a = k == 0 ? turning : (round + k) % turning;
      const int64_t b = (round - k + turning) % turning;
      if (a < blocks && b < blocks)
        rounds.back().push_back({std::min(a, b), std::max(a, b)});
    }
  }
  return rounds;
}

Rounds cross_rounds(int64_t row_blocks, int64_t column_blocks) {
  const int64_t seats = std::max(row_blocks, column_blocks);
  Rounds rounds(seats);
  for (int64_t round = 0; round < seats; ++round)
    for (int64_t i = 0; i < row_blocks; ++i)
      if (const int64_t j = (i + round) % seats; j < column_blocks)
        rounds[round].push_back({i, j});
  return rounds;
}

} // namespace fastdml
