#include "tests/support/fake_memory_service.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::testing {
namespace {

std::set<std::string> Words(const std::string& text) {
  return absl::StrSplit(text, absl::ByAnyChar(" .,?!\n"), absl::SkipEmpty());
}

}  // namespace

void FakeMemoryService::FailWith(absl::Status status) {
  absl::MutexLock lock(&mu_);
  failure_ = std::move(status);
}
rpc::GenerateRequest FakeMemoryService::last_generate() const {
  absl::MutexLock lock(&mu_);
  return last_generate_;
}
rpc::RetrieveRequest FakeMemoryService::last_retrieve() const {
  absl::MutexLock lock(&mu_);
  return last_retrieve_;
}
rpc::CallContext FakeMemoryService::last_context() const {
  absl::MutexLock lock(&mu_);
  return last_context_;
}

std::vector<rpc::CoarseState> FakeMemoryService::coarse_states() const {
  absl::MutexLock lock(&mu_);
  return coarse_states_;
}

absl::StatusOr<rpc::CoarseState> FakeMemoryService::SetCoarse(const rpc::CallContext& ctx,
                                                              const std::string& bank,
                                                              const rpc::CoarseState& state) {
  absl::MutexLock lock(&mu_);
  MSA_RETURN_IF_ERROR(Find(ctx, bank).status());
  coarse_states_.push_back(state);
  return state;
}

absl::StatusOr<FakeMemoryService::Bank*> FakeMemoryService::Find(const rpc::CallContext& ctx,
                                                                 const std::string& name) {
  last_context_ = ctx;
  MSA_RETURN_IF_ERROR(failure_);
  const auto found = banks_.find(name);
  if (found == banks_.end()) return absl::NotFoundError(StrCat("no bank '", name, "'"));
  return &found->second;
}

absl::StatusOr<rpc::BankSpec> FakeMemoryService::CreateBank(const rpc::CallContext& ctx,
                                                            const std::string& name,
                                                            const rpc::BankOptions& options) {
  absl::MutexLock lock(&mu_);
  last_context_ = ctx;
  MSA_RETURN_IF_ERROR(failure_);
  if (banks_.contains(name)) return absl::AlreadyExistsError(StrCat("bank ", name));
  rpc::BankSpec& spec = banks_[name].spec;
  spec.name = name;
  spec.model_name = "fake";
  spec.routing_dtype = options.routing_dtype.value_or(DType::kBFloat16);
  spec.content_dtype = options.content_dtype.value_or(DType::kBFloat16);
  spec.part_tokens = options.part_tokens.value_or(512);
  spec.parse_special_tokens = options.parse_special_tokens.value_or(false);
  return spec;
}

absl::Status FakeMemoryService::DeleteBank(const rpc::CallContext& ctx, const std::string& name) {
  absl::MutexLock lock(&mu_);
  MSA_RETURN_IF_ERROR(Find(ctx, name).status());
  banks_.erase(name);
  return absl::OkStatus();
}

absl::StatusOr<rpc::ModelInfo> FakeMemoryService::GetModel(const rpc::CallContext&) {
  absl::MutexLock lock(&mu_);
  MSA_RETURN_IF_ERROR(failure_);
  rpc::ModelInfo model;
  model.name = "fake";
  model.fingerprint = std::string(32, '5');
  model.retrieval_mode = "router";
  model.has_trained_routers = true;
  model.default_bank.router_layers = {3, 7};
  model.default_bank.routing_dtype = model.default_bank.content_dtype = DType::kBFloat16;
  model.default_bank.routing_chunk_tokens = model.default_bank.content_chunk_tokens = 16;
  model.default_bank.part_tokens = 1024;
  return model;
}

absl::StatusOr<std::vector<rpc::BankSpec>> FakeMemoryService::ListBanks(
    const rpc::CallContext& ctx) {
  absl::MutexLock lock(&mu_);
  MSA_RETURN_IF_ERROR(failure_);
  std::vector<rpc::BankSpec> specs;
  for (const auto& [name, bank] : banks_) {
    specs.push_back(bank.spec);
    specs.back().name = name;
  }
  return specs;
}

rpc::AddResult FakeMemoryService::Add(Bank& bank, uint64_t index,
                                      const rpc::NewDocument& document) {
  rpc::AddResult result{.index = index, .id = document.id, .status = {}, .put = {}};
  if (document.text.empty()) {
    result.status = absl::InvalidArgumentError("the text is empty");
    return result;
  }
  rpc::StoredDocument& stored = bank.documents[document.id];
  stored.full_text = document.FullText();
  stored.info.id = document.id;
  stored.info.title = document.title;
  stored.info.metadata = document.metadata;
  stored.info.revision = ++bank.revisions[document.id];
  stored.info.text_bytes = stored.full_text.size();
  const int32_t tokens = static_cast<int32_t>(Words(stored.full_text).size());
  stored.info.parts = {{.reference = static_cast<int64_t>(index),
                        .span = {0, stored.full_text.size()},
                        .num_tokens = tokens,
                        .routing_chunks = (tokens + 3) / 4}};
  result.put = {.revision = stored.info.revision,
                .num_tokens = tokens,
                .num_chunks = (tokens + 3) / 4,
                .num_parts = 1};
  return result;
}

absl::Status FakeMemoryService::AddDocuments(
    const rpc::CallContext& ctx, const std::string& bank,
    const std::function<std::optional<rpc::NewDocument>()>& next,
    const std::function<bool(const rpc::AddResult&)>& done) {
  for (uint64_t index = 0; true; ++index) {
    const std::optional<rpc::NewDocument> document = next();
    if (!document.has_value()) break;
    rpc::AddResult result;
    {
      absl::MutexLock lock(&mu_);
      MSA_ASSIGN_OR_RETURN(Bank* const found, Find(ctx, bank));
      result = Add(*found, index, *document);
    }
    if (!done(result)) return absl::CancelledError("the client is gone");
  }
  absl::MutexLock lock(&mu_);
  return Find(ctx, bank).status();
}

absl::StatusOr<std::vector<rpc::DeleteResult>> FakeMemoryService::DeleteDocuments(
    const rpc::CallContext& ctx, const std::string& bank, const std::vector<std::string>& ids) {
  absl::MutexLock lock(&mu_);
  MSA_ASSIGN_OR_RETURN(Bank* const found, Find(ctx, bank));
  std::vector<rpc::DeleteResult> results;
  for (const std::string& id : ids) {
    rpc::DeleteResult& result = results.emplace_back();
    result.id = id;
    if (found->documents.erase(id) == 0) {
      result.status = absl::NotFoundError(StrCat("no document '", id, "'"));
    } else {
      result.revision = found->revisions[id];
    }
  }
  return results;
}

absl::StatusOr<rpc::StoredDocument> FakeMemoryService::GetDocument(const rpc::CallContext& ctx,
                                                                   const std::string& bank,
                                                                   const std::string& id) {
  absl::MutexLock lock(&mu_);
  MSA_ASSIGN_OR_RETURN(Bank* const found, Find(ctx, bank));
  const auto document = found->documents.find(id);
  if (document == found->documents.end()) {
    return absl::NotFoundError(StrCat("no document '", id, "' in bank '", bank, "'"));
  }
  return document->second;
}

absl::StatusOr<rpc::DocumentPage> FakeMemoryService::ListDocuments(const rpc::CallContext& ctx,
                                                                   const std::string& bank,
                                                                   int32_t page_size,
                                                                   const std::string& page_token) {
  absl::MutexLock lock(&mu_);
  MSA_ASSIGN_OR_RETURN(Bank* const found, Find(ctx, bank));
  rpc::DocumentPage page;
  for (auto it = found->documents.upper_bound(page_token); it != found->documents.end(); ++it) {
    if (std::cmp_equal(page.documents.size(), page_size)) {
      page.next_page_token = page.documents.back().id;
      break;
    }
    page.documents.push_back(it->second.info);
  }
  return page;
}

std::vector<rpc::RoutedDocument> FakeMemoryService::Rank(const Bank& bank,
                                                         const std::string& question,
                                                         size_t limit) {
  const std::set<std::string> wanted = Words(question);
  std::vector<rpc::RoutedDocument> ranked;
  for (const auto& [id, document] : bank.documents) {
    int common = 0;
    for (const std::string& word : Words(document.full_text)) common += wanted.contains(word);
    ranked.push_back({.reference = document.info.parts[0].reference,
                      .document_id = id,
                      .title = document.info.title,
                      .part_index = 0,
                      .span = document.info.parts[0].span,
                      .score = static_cast<float>(common),
                      .layer_votes = 2});
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.score > b.score; });
  ranked.resize(std::min(ranked.size(), limit));
  return ranked;
}

absl::StatusOr<rpc::RetrieveReply> FakeMemoryService::Retrieve(
    const rpc::CallContext& ctx, const rpc::RetrieveRequest& request) {
  absl::MutexLock lock(&mu_);
  last_retrieve_ = request;
  if (request.question.empty()) return absl::InvalidArgumentError("the question is empty");
  MSA_ASSIGN_OR_RETURN(Bank* const found, Find(ctx, request.bank));
  rpc::RetrieveReply reply;
  reply.documents = Rank(*found, request.question, static_cast<size_t>(request.limit));
  reply.timings.total = 2;
  for (const int32_t candidates : request.compare_candidates) {
    reply.comparisons.push_back({candidates, /*selections=*/100,
                                 /*same=*/candidates < 64 ? 90 : 100,
                                 /*exact_ms=*/50, /*coarse_ms=*/20});
  }
  return reply;
}

// Answers with the best document's text.
absl::Status FakeMemoryService::Generate(const rpc::CallContext& ctx,
                                         const rpc::GenerateRequest& request,
                                         const rpc::EventSink& sink) {
  rpc::DoneEvent done;
  {
    absl::MutexLock lock(&mu_);
    last_generate_ = request;
    MSA_ASSIGN_OR_RETURN(Bank* const found, Find(ctx, request.bank));
    done.documents = Rank(*found, request.question, 1);
    if (!done.documents.empty()) {
      done.answer = found->documents.at(done.documents[0].document_id).full_text;
      done.answered_from = {done.documents[0].reference};
    }
  }
  done.finish_reason = "stop";
  done.no_answer = request.question.find("nobody") != std::string::npos;
  done.usage.rounds = 1;
  const rpc::RoutingEvent routing{
      .round = 1, .documents = done.documents, .layers = {}, .missing_shards = {}};
  if (!sink(routing) || !sink(rpc::DocumentsLoadedEvent{1, done.documents}) ||
      !sink(rpc::TextEvent{done.answer, false}) || !sink(done)) {
    return absl::CancelledError("the client is gone");
  }
  return absl::OkStatus();
}

absl::StatusOr<rpc::BankStats> FakeMemoryService::Stats(const rpc::CallContext& ctx,
                                                        const std::string& bank) {
  absl::MutexLock lock(&mu_);
  MSA_ASSIGN_OR_RETURN(Bank* const found, Find(ctx, bank));
  rpc::BankStats stats;
  stats.spec = found->spec;
  rpc::ShardStatsEntry& shard = stats.shards.emplace_back();
  shard.shard = "shard-0";
  shard.stats.num_documents = static_cast<int64_t>(found->documents.size());
  shard.stats.num_parts = shard.stats.num_documents;
  return stats;
}

}  // namespace msa::testing
