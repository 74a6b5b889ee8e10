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

int64_t Rounds::count() const {
  return self_ ? row_blocks_ + row_blocks_ % 2 : std::max(row_blocks_, column_blocks_);
}

std::vector<BlockPair> Rounds::pairs(int64_t round) const {
  std::vector<BlockPair> found;
  if (!self_) {
    for (int64_t i = 0; i < row_blocks_; ++i)
      if (const int64_t j = (i + round) % count(); j < column_blocks_)
        found.push_back({i, j});
    return found;
  }
  if (round == 0) {
    for (int64_t i = 0; i < row_blocks_; ++i)
      found.push_back({i, i});
    return found;
  }
  // The circle method: the last seat stays, the others turn by one a round; an odd number plays against a
  // bye.
  const int64_t seats = count(), turning = seats - 1;
  for (int64_t k = 0; k < seats / 2; ++k) {
    const int64_t a = k == 0 ? turning : (round - 1 + k) % turning;
    const int64_t b = (round - 1 - k + turning) % turning;
    if (a < row_blocks_ && b < row_blocks_)
      found.push_back({std::min(a, b), std::max(a, b)});
  }
  return found;
}

} // namespace fastdml
