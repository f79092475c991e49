#include "router/banks.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/cleanup/cleanup.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "router/validate.h"
#include "rpc/caller.h"
#include "rpc/fan_out.h"

namespace msa::router {
namespace {

uint64_t RandomUid() {
  std::random_device device;
  uint64_t uid = 0;
  while (uid == 0) uid = (uint64_t{device()} << 32) | device();
  return uid;
}

absl::StatusOr<rpc::BankSpec> MakeSpec(const rpc::ModelInfo& model, const std::string& name,
                                       const rpc::BankOptions& options) {
  rpc::BankSpec spec = model.default_bank;
  spec.name = name;
  spec.uid = RandomUid();
  spec.model_fingerprint = model.fingerprint;
  spec.model_name = model.name;
  spec.routing_dtype = options.routing_dtype.value_or(spec.routing_dtype);
  spec.content_dtype = options.content_dtype.value_or(spec.content_dtype);
  spec.routing_chunk_tokens = options.routing_chunk_tokens.value_or(spec.routing_chunk_tokens);
  spec.content_chunk_tokens = options.content_chunk_tokens.value_or(spec.content_chunk_tokens);
  spec.part_tokens = options.part_tokens.value_or(spec.part_tokens);
  spec.parse_special_tokens = options.parse_special_tokens.value_or(spec.parse_special_tokens);
  if (spec.router_layers.empty()) {
    return absl::FailedPreconditionError(
        StrCat("the model ", model.name, " has no router layers and cannot serve a bank"));
  }
  return spec;
}

}  // namespace

absl::Status UnknownBank(const std::string& name) {
  return absl::NotFoundError(StrCat("there is no bank '", name, "'",
                                    name == kDefaultBank
                                        ? ": it is made when the first document is added"
                                        : ": create it first (msa bank create), or see which "
                                          "there are (msa bank ls)"));
}

absl::Status Banks::BeginChange(const rpc::CallContext& context) {
  absl::MutexLock lock(&mutex_);
  const auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !changing_; };
  MSA_RETURN_IF_ERROR(
      rpc::AwaitFor(context, mutex_, absl::Condition(&free),
                    "the deadline passed while another bank was made or deleted: try again"));
  changing_ = true;
  return absl::OkStatus();
}

void Banks::EndChange() {
  absl::MutexLock lock(&mutex_);
  changing_ = false;
}

absl::StatusOr<std::map<std::string, Banks::Found>> Banks::Survey(
    const rpc::CallContext& context) const {
  std::vector<std::vector<rpc::BankState>> states(shards_->size());
  MSA_RETURN_IF_ERROR(rpc::FirstError(shards_->AskEach(
      context, shards_->All(), /*all_or_nothing=*/true,
      [&](const rpc::CallContext& limited, int shard) -> absl::Status {
        MSA_ASSIGN_OR_RETURN(states[shard], shards_->shard(shard).ListBanks(limited));
        return absl::OkStatus();
      })));
  std::map<std::string, Found> banks;
  for (int shard = 0; shard < shards_->size(); ++shard) {
    for (rpc::BankState& state : states[shard]) {
      auto [at, fresh] = banks.try_emplace(state.spec.name);
      Found& found = at->second;
      // A shard whose record of it is damaged, or of an earlier release, does not say it.
      std::optional<DType>& weights = found.bank.spec.weights_dtype;
      if (!weights) weights = state.spec.weights_dtype;
      if (!state.spec.weights_dtype) state.spec.weights_dtype = weights;
      if (fresh) {
        found.first_shard = shard;
        found.bank.spec = state.spec;
        for (int before = 0; before < shard; ++before) found.missing_on.push_back(before);
      } else if (!(found.bank.spec == state.spec)) {
        found.differs_on = shard;
      }
      found.bank.next_reference = std::max(found.bank.next_reference, state.next_reference);
      found.used |= state.next_reference > 0 || state.references_taken > 0;
    }
    for (auto& [name, found] : banks) {
      const bool here = std::any_of(states[shard].begin(), states[shard].end(),
                                    [&](const auto& state) { return state.spec.name == name; });
      if (!here) found.missing_on.push_back(shard);
    }
  }
  return banks;
}

absl::Status Banks::Complete(const rpc::CallContext& context, const Found& found) const {
  const std::string& name = found.bank.spec.name;
  if (found.differs_on >= 0) {
    return absl::FailedPreconditionError(
        StrCat("bank '", name, "' is not the same on the shards '",
               shards_->name(found.first_shard), "' and '", shards_->name(found.differs_on),
               "': one of them belongs to another cluster, or delete the bank and add again"));
  }
  if (found.missing_on.empty()) return absl::OkStatus();
  if (found.used) {
    return absl::FailedPreconditionError(
        StrCat("bank '", name, "' has had documents, or gave numbers for some, and the shard '",
               shards_->name(found.missing_on.front()),
               "' lacks it: its deletion was not finished, or that shard has lost its data. Delete "
               "the bank (again), or bring the data back"));
  }
  return rpc::FirstError(shards_->AskEach(context, found.missing_on, /*all_or_nothing=*/false,
                                          [&](const rpc::CallContext& limited, int shard) {
                                            return shards_->shard(shard).CreateBank(
                                                limited, found.bank.spec);
                                          }));
}

absl::StatusOr<Bank> Banks::Find(const rpc::CallContext& context, const std::string& name) {
  MSA_RETURN_IF_ERROR(CheckBankName(name));
  MSA_ASSIGN_OR_RETURN(auto banks, Survey(context));
  auto found = banks.find(name);
  if (found == banks.end()) return UnknownBank(name);
  if (found->second.whole()) return found->second.bank;
  // A crash's trace, or another's change under way: looked at again once that is over.
  MSA_RETURN_IF_ERROR(BeginChange(context));
  const absl::Cleanup end = [this] { EndChange(); };
  MSA_ASSIGN_OR_RETURN(banks, Survey(context));
  found = banks.find(name);
  if (found == banks.end()) return UnknownBank(name);
  MSA_RETURN_IF_ERROR(Complete(context, found->second));
  return found->second.bank;
}

absl::StatusOr<Bank> Banks::FindOrMakeDefault(const rpc::CallContext& context,
                                              const std::string& name) {
  absl::StatusOr<Bank> bank = Find(context, name);
  if (name != kDefaultBank || !absl::IsNotFound(bank.status())) return bank;
  const absl::Status made = Create(context, name, {}).status();
  // Another stream or router may have made it meanwhile.
  if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
  return Find(context, name);
}

absl::Status Banks::Repair(const rpc::CallContext& context) {
  MSA_RETURN_IF_ERROR(BeginChange(context));
  const absl::Cleanup end = [this] { EndChange(); };
  MSA_ASSIGN_OR_RETURN(const auto banks, Survey(context));
  absl::Status first;
  for (const auto& [name, found] : banks) first.Update(Complete(context, found));
  return first;
}

absl::Status Banks::CreateEverywhere(const rpc::CallContext& context,
                                     const rpc::BankSpec& spec) const {
  const auto create = [&](const std::vector<int>& which) {
    return shards_->AskEach(context, which, /*all_or_nothing=*/false,
                            [&](const rpc::CallContext& limited, int shard) {
                              return shards_->shard(shard).CreateBank(limited, spec);
                            });
  };
  // On the first alone: of two routers that make it at once, one is refused before it made any, and
  // finds the other's.
  MSA_RETURN_IF_ERROR(create({kNumberingShard}).front());
  std::vector<int> others(shards_->size() - 1);
  std::iota(others.begin(), others.end(), kNumberingShard + 1);
  const absl::Status error = rpc::FirstError(create(others));
  // From all: where only the answer was lost, it is made.
  if (!error.ok()) TakeBack(context, spec, others);
  return error;
}

void Banks::TakeBack(const rpc::CallContext& context, const rpc::BankSpec& spec,
                     const std::vector<int>& others) const {
  // It must not fail for the client's deadline or its having gone.
  const rpc::CallContext own{.deadline = absl::Now() + absl::Seconds(10),
                             .request_id = context.request_id,
                             .cancelled = nullptr};
  const auto take_back = [&](const rpc::CallContext& limited, int shard) {
    return shards_->shard(shard).DeleteUnusedBank(limited, spec.name, spec.uid);
  };
  // Another router may have completed the bank and be about to add to it, with numbers from there:
  // it has taken some, and the bank stays, or can take none any more.
  const absl::Status first = shards_->Ask(own, kNumberingShard, take_back);
  if (!first.ok() && !absl::IsNotFound(first)) return;
  (void)shards_->AskEach(own, others, /*all_or_nothing=*/false, take_back);
}

absl::StatusOr<rpc::BankSpec> Banks::Create(const rpc::CallContext& context,
                                            const std::string& name,
                                            const rpc::BankOptions& options) {
  MSA_RETURN_IF_ERROR(CheckBankName(name));
  MSA_RETURN_IF_ERROR(CheckBankOptions(options));
  MSA_ASSIGN_OR_RETURN(const rpc::ModelInfo model, compute_->Info(context));
  MSA_ASSIGN_OR_RETURN(const rpc::BankSpec spec, MakeSpec(model, name, options));
  // A bank whose parts hold no text beside their frame would refuse every document.
  MSA_RETURN_IF_ERROR(compute_->Call(context, [&](rpc::ComputeNode& node) {
    return node.SplitDocument(context, "a", spec.part_tokens).status();
  }));
  MSA_RETURN_IF_ERROR(BeginChange(context));
  const absl::Cleanup end = [this] { EndChange(); };
  MSA_ASSIGN_OR_RETURN(const auto banks, Survey(context));
  if (banks.count(name) > 0) {
    return absl::AlreadyExistsError(StrCat("there is already a bank '", name, "'"));
  }
  MSA_RETURN_IF_ERROR(CreateEverywhere(context, spec));
  return spec;
}

absl::Status Banks::Delete(const rpc::CallContext& context, const std::string& name) {
  MSA_RETURN_IF_ERROR(CheckBankName(name));
  MSA_RETURN_IF_ERROR(BeginChange(context));
  const absl::Cleanup end = [this] { EndChange(); };
  const auto statuses = shards_->AskEach(context, shards_->All(), /*all_or_nothing=*/false,
                                         [&](const rpc::CallContext& limited, int shard) {
                                           return shards_->shard(shard).DeleteBank(limited, name);
                                         });
  // A shard that lacks it is where an earlier attempt came to.
  const auto has_it = [](const absl::Status& s) { return !s.ok() && !absl::IsNotFound(s); };
  const auto kept = absl::c_find_if(statuses, has_it);
  if (kept != statuses.end()) return *kept;
  const bool deleted = absl::c_any_of(statuses, [](const absl::Status& s) { return s.ok(); });
  return deleted ? absl::OkStatus() : UnknownBank(name);
}

absl::StatusOr<rpc::CoarseState> Banks::SetCoarse(const rpc::CallContext& context,
                                                  const std::string& name,
                                                  const rpc::CoarseState& state) {
  MSA_ASSIGN_OR_RETURN(const Bank bank, Find(context, name));
  rpc::CoarseState kept = state;
  kept.num_parts = 0;
  kept.next_reference = 0;
  if (state.selections > 0) {
    std::vector<int64_t> parts(shards_->size());
    MSA_RETURN_IF_ERROR(rpc::FirstError(
        shards_->AskEach(context, shards_->All(), /*all_or_nothing=*/true,
                         [&](const rpc::CallContext& limited, int shard) -> absl::Status {
                           MSA_ASSIGN_OR_RETURN(const rpc::ShardStats stats,
                                                shards_->shard(shard).Stats(limited, name));
                           parts[shard] = stats.num_parts;
                           return absl::OkStatus();
                         })));
    kept.num_parts = std::accumulate(parts.begin(), parts.end(), int64_t{0});
    kept.next_reference = bank.next_reference;
  }
  MSA_RETURN_IF_ERROR(rpc::FirstError(
      shards_->AskEach(context, shards_->All(), /*all_or_nothing=*/false,
                       [&](const rpc::CallContext& limited, int shard) {
                         return shards_->shard(shard).SetCoarse(limited, name, kept);
                       })));
  return kept;
}

absl::StatusOr<std::vector<rpc::BankSpec>> Banks::List(const rpc::CallContext& context) {
  MSA_ASSIGN_OR_RETURN(const auto banks, Survey(context));
  std::vector<rpc::BankSpec> specs;
  for (const auto& [name, found] : banks) specs.push_back(found.bank.spec);
  return specs;
}

}  // namespace msa::router
