#include "compute_node/pass_sharer.h"

#include <algorithm>
#include <barrier>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace msa::compute_node {

// One call.
struct PassSharer::Item {
  absl::Span<const SequenceChunk> sequences;  // one where there is a hook
  RoutedHook* hook = nullptr;
  std::string request_id = CurrentRequestId();
  std::vector<float> hidden;  // out
  absl::Status status;        // out

  size_t tokens() const {
    size_t tokens = 0;
    for (const SequenceChunk& sequence : sequences) tokens += sequence.tokens.size();
    return tokens;
  }
};

// The hook of a pass of several sequences. In a layer that routes, all queries are computed at once
// and every sequence's hook has a thread: hooks wait for their memory, and those that wait together
// are scanned for together.
class PassSharer::Hooks : public ForwardHook {
 public:
  Hooks(const Transformer& transformer, absl::Span<Item* const> items)
      : transformer_(transformer),
        items_(items),
        queries_of_(items.size()),
        step_(static_cast<ptrdiff_t>(items.size())) {
    int64_t row = 0;
    for (const Item* item : items) {
      first_rows_.push_back(row);
      row += static_cast<int64_t>(item->tokens());
    }
    threads_.reserve(items.size() - 1);
  }
  ~Hooks() override {
    layer_ = kOver;
    step_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
  }

  // Before the pass. RESOURCE_EXHAUSTED when the system does not give all hooks a thread.
  absl::Status Start() {
    try {
      for (size_t i = 1; i < items_.size(); ++i) threads_.emplace_back([this, i] { Help(i); });
    } catch (const std::system_error&) {
      // The others are let go by the destructor; those that never came are not waited for.
      for (size_t i = threads_.size() + 1; i < items_.size(); ++i) step_.arrive_and_drop();
      return absl::ResourceExhaustedError("no thread for a hook");
    }
    return absl::OkStatus();
  }

  absl::Status OnAttentionInputs(int layer, const AttentionInputs& inputs) override {
    layer_ = layer;
    inputs_ = inputs;
    if (Together()) {
      step_.arrive_and_wait();
      TakeTurn(0);
      queries_ = kernels::Buffer();
    } else {
      for (size_t i = 0; i < items_.size(); ++i) Call(i, {});
    }
    for (const Item* item : items_) {
      if (item->status.ok()) return absl::OkStatus();
    }
    return items_.front()->status;  // nobody is left
  }

 private:
  static constexpr int kOver = -1;

  bool Asks(const Item& item) const { return item.status.ok() && item.hook->Routes(layer_); }

  // Computes the layer's queries; false where it has none. Those of a bank that reduces otherwise
  // than the first are left to their own turn, all where memory is short.
  bool Together() {
    std::vector<int32_t> rows;
    const RoutingShape* shape = nullptr;
    bool any = false;
    for (size_t i = 0; i < items_.size(); ++i) {
      const Item& item = *items_[i];
      queries_of_[i] = kNone;
      if (!Asks(item)) continue;
      any = true;
      if (shape == nullptr) shape = &item.hook->shape();
      if (!(item.hook->shape() == *shape)) continue;
      queries_of_[i] = rows.size();
      for (const int32_t row : item.hook->query_rows()) {
        rows.push_back(static_cast<int32_t>(first_rows_[i]) + row);
      }
    }
    if (!any) return false;
    queries_ = RoutingQueries(transformer_, *shape, layer_, inputs_, rows);
    // No room for those of all.
    if (!queries_.ok()) std::fill(queries_of_.begin(), queries_of_.end(), kNone);
    return true;
  }

  void Help(size_t i) {
    while (true) {
      step_.arrive_and_wait();
      if (layer_ == kOver) return;
      TakeTurn(i);
    }
  }

  // All queries are on the processor before the first scan is asked for: a copy waits for what the
  // device was asked before it.
  void TakeTurn(size_t i) {
    auto queries = Queries(i);
    step_.arrive_and_wait();
    if (queries.ok()) {
      Call(i, *std::move(queries));
    } else {
      items_[i]->status = queries.status();
    }
    step_.arrive_and_wait();
  }

  absl::StatusOr<std::vector<float>> Queries(size_t i) {
    const Item& item = *items_[i];
    if (!Asks(item)) return std::vector<float>();
    if (queries_of_[i] != kNone) {
      return QueriesOf(transformer_.backend(), *queries_, item.hook->shape(), queries_of_[i],
                       item.hook->query_rows().size());
    }
    AttentionInputs own;
    own.rows = static_cast<int64_t>(item.tokens());
    own.normed = inputs_.normed + first_rows_[i] * transformer_.config().hidden_size;
    own.q = inputs_.q + first_rows_[i] * transformer_.q_width();
    own.k = inputs_.k + first_rows_[i] * transformer_.kv_width();
    own.v = inputs_.v + first_rows_[i] * transformer_.kv_width();
    // One after the other, so that there is room where there is room for one.
    absl::MutexLock lock(&own_queries_);
    return item.hook->OwnQueries(transformer_, layer_, own);
  }

  void Call(size_t i, std::vector<float> queries) {
    Item& item = *items_[i];
    const ScopedRequestId lines(item.request_id);
    if (item.status.ok()) item.status = item.hook->OnQueries(layer_, std::move(queries));
  }

  static constexpr size_t kNone = SIZE_MAX;

  const Transformer& transformer_;
  const absl::Span<Item* const> items_;
  std::vector<int64_t> first_rows_;
  // Written by the pass's own thread while the others wait for a layer.
  int layer_ = 0;
  AttentionInputs inputs_;
  absl::StatusOr<kernels::Buffer> queries_;  // of all that have a place in it
  std::vector<size_t> queries_of_;           // first row in queries_, or kNone
  absl::Mutex own_queries_;                  // held while those that have none are computed
  std::barrier<> step_;
  std::vector<std::thread> threads_;  // all items' but the first's
};

PassSharer::PassSharer(const Transformer& transformer, bool joins, size_t max_tokens)
    : transformer_(transformer),
      joins_(joins),
      max_tokens_(max_tokens),
      routed_(
          max_tokens, [](const Item& item) { return item.tokens(); },
          [this](absl::Span<Item* const> items) { Process(items); }),
      plain_(
          max_tokens, [](const Item& item) { return item.tokens(); },
          [this](absl::Span<Item* const> items) { Process(items); }) {}

absl::StatusOr<std::vector<float>> PassSharer::Forward(const SequenceChunk& sequence,
                                                       RoutedHook* hook) {
  return Run({&sequence, 1}, hook);
}

absl::StatusOr<std::vector<float>> PassSharer::ForwardAll(
    absl::Span<const SequenceChunk> sequences) {
  return Run(sequences, nullptr);
}

size_t PassSharer::NumAtOnce(absl::Span<const std::vector<int32_t>> prompts) const {
  if (!joins_) return 1;
  size_t tokens = prompts.front().size();
  size_t count = 1;
  for (; count < prompts.size(); ++count) {
    tokens += prompts[count].size();
    if (tokens > max_tokens_) break;
  }
  return count;
}

absl::StatusOr<std::vector<float>> PassSharer::Run(absl::Span<const SequenceChunk> sequences,
                                                   RoutedHook* hook) {
  Item item;
  item.sequences = sequences;
  item.hook = hook;
  if (!joins_) {
    RunAlone(item);
    MSA_RETURN_IF_ERROR(item.status);
    return std::move(item.hidden);
  }
  // Its own memory is taken here, so that a want of it is this call's alone.
  for (const SequenceChunk& sequence : sequences) {
    MSA_RETURN_IF_ERROR(sequence.cache->Reserve(static_cast<int64_t>(sequence.tokens.size())));
  }
  (hook != nullptr ? routed_ : plain_).Run(&item);
  MSA_RETURN_IF_ERROR(item.status);
  return std::move(item.hidden);
}

// A pass for each sequence.
void PassSharer::RunAlone(Item& item) const {
  const ScopedRequestId lines(item.request_id);
  for (size_t i = 0; i < item.sequences.size(); ++i) {
    const auto hidden = transformer_.Forward(item.sequences.subspan(i, 1), item.hook);
    item.status = hidden.status();
    if (!hidden.ok()) return;
    item.hidden.insert(item.hidden.end(), hidden->begin(), hidden->end());
  }
}

void PassSharer::Process(absl::Span<Item* const> items) const {
  std::vector<SequenceChunk> sequences;
  for (const Item* item : items) {
    sequences.insert(sequences.end(), item->sequences.begin(), item->sequences.end());
  }
  if (sequences.size() == 1) return RunAlone(*items.front());
  absl::StatusOr<std::vector<float>> hidden;
  if (items.front()->hook != nullptr) {
    Hooks hooks(transformer_, items);
    const absl::Status started = hooks.Start();
    hidden = started.ok() ? transformer_.Forward(sequences, &hooks) : started;
  } else {
    hidden = transformer_.Forward(sequences, nullptr);
  }
  // No room for all their tensors, or no threads for their hooks: nothing was computed yet.
  if (absl::IsResourceExhausted(hidden.status())) {
    for (Item* item : items) {
      if (item->status.ok()) RunAlone(*item);
    }
    return;
  }
  int64_t begin = 0;
  for (Item* item : items) {
    const auto size =
        static_cast<int64_t>(item->sequences.size()) * transformer_.config().hidden_size;
    if (item->status.ok()) item->status = hidden.status();
    if (item->status.ok()) {
      item->hidden.assign(hidden->begin() + begin, hidden->begin() + begin + size);
    }
    begin += size;
  }
}

}  // namespace msa::compute_node
