#include "compute_node/block_fetcher.h"

#include <utility>

namespace msa::compute_node {

void BlockFetcher::Start(const rpc::CallContext& ctx, int32_t shard, absl::Span<const Key> keys,
                         Call call) {
  const auto running = std::make_shared<Running>();
  running->shard = shard;
  {
    absl::MutexLock lock(&mutex_);
    for (const Key& key : keys) {
      Expected& expected = expected_[key];
      if (expected.block == nullptr) expected.call = running;
    }
    ++running_;
  }
  rpc::CallContext linked = ctx;
  linked.cancelled = [this, cancelled = ctx.cancelled] {
    return stopped_ || (cancelled && cancelled());
  };
  auto run = [this, running, linked = std::move(linked), call = std::move(call)] {
    absl::Status status =
        call(linked, [this, &running](const Key& key, absl::StatusOr<Block> block) {
          absl::MutexLock lock(&mutex_);
          running->kept = block.status();
          if (block.ok()) expected_[key].block = *std::move(block);
          return running->kept;
        });
    absl::MutexLock lock(&mutex_);
    running->status = std::move(status);
    running->ended = true;
    --running_;
  };
  if (!pool_.SubmitNow(run)) run();
}

void BlockFetcher::Put(const Key& key, Block block) {
  absl::MutexLock lock(&mutex_);
  expected_[key] = {nullptr, std::move(block)};
}

bool BlockFetcher::Has(const Key& key) const {
  absl::MutexLock lock(&mutex_);
  return expected_.contains(key);
}

BlockFetcher::Block BlockFetcher::Find(const Key& key) const {
  absl::MutexLock lock(&mutex_);
  const auto it = expected_.find(key);
  return it == expected_.end() ? nullptr : it->second.block;
}

std::vector<std::shared_ptr<const BlockFetcher::Running>> BlockFetcher::Owing(
    absl::Span<const Key> keys) const {
  std::vector<std::shared_ptr<const Running>> calls;
  for (const Key& key : keys) {
    const auto it = expected_.find(key);
    if (it == expected_.end() || it->second.block != nullptr) continue;
    if (it->second.call != nullptr) calls.push_back(it->second.call);
  }
  return calls;
}

absl::StatusOr<std::map<int32_t, absl::Status>> BlockFetcher::Await(absl::Span<const Key> keys,
                                                                    bool all_or_nothing) {
  absl::MutexLock lock(&mutex_);
  const auto settled = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    bool all_ended = true;
    for (const auto& call : Owing(keys)) {
      if (all_or_nothing && !call->status.ok()) return true;
      all_ended &= call->ended;
    }
    return all_ended;
  };
  mutex_.Await(absl::Condition(&settled));
  std::map<int32_t, absl::Status> errors;
  for (const auto& call : Owing(keys)) {
    if (!call->kept.ok()) return call->kept;
    if (call->status.ok()) continue;
    absl::Status& error = errors[call->shard];
    if (error.ok() || absl::IsUnavailable(error)) error = call->status;
  }
  if (all_or_nothing && !errors.empty()) stopped_ = true;
  return errors;
}

void BlockFetcher::Stop() {
  stopped_ = true;
  absl::MutexLock lock(&mutex_);
  const auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
  mutex_.Await(absl::Condition(&ended));
}

}  // namespace msa::compute_node
