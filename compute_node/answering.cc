#include "compute_node/answering.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/time/clock.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/model/chat_template.h"
#include "compute_node/stopwatch.h"

namespace msa::compute_node {
namespace {

// Documents named in a round's routing event.
constexpr int32_t kShownDocuments = 16;

std::map<int64_t, rpc::PartText> ByReference(std::vector<rpc::PartText> parts) {
  std::map<int64_t, rpc::PartText> by_reference;
  for (rpc::PartText& part : parts) by_reference[part.reference] = std::move(part);
  return by_reference;
}

std::map<int64_t, int32_t> Votes(const std::vector<rpc::LayerSelection>& selections) {
  std::map<int64_t, int32_t> votes;
  for (const rpc::LayerSelection& layer : selections) {
    for (const ScoredPart& part : layer.parts) ++votes[part.reference];
  }
  return votes;
}

rpc::RoutedDocument Describe(const ScoredPart& scored, const rpc::PartText* part, int32_t votes) {
  rpc::RoutedDocument document;
  document.reference = scored.reference;
  document.score = scored.score;
  document.layer_votes = votes;
  if (part != nullptr) {
    document.document_id = part->document_id;
    document.title = part->title;
    document.part_index = part->part_index;
    document.span = part->span;
  }
  return document;
}

// Whether a round adds this part to what is read. The first adds whatever it ranks.
bool Adds(const rpc::RankedPart& part, int32_t round, const MemoryConfig& config) {
  return round == 1 || part.scored.score >= config.round_min_score;
}

// One question being answered; its methods are the stages.
class Answering {
 public:
  Answering(const rpc::CallContext& ctx, const AnsweringParts& parts,
            const rpc::GenerateRequest& request, absl::Duration queued, const rpc::EventSink& sink)
      : ctx_(ctx),
        parts_(parts),
        request_(request),
        sink_(sink),
        start_(absl::Now()),
        sampler_(request.temperature, request.seed),
        decoder_(parts.transformer, parts.tokenizer, *parts.memory.passes, parts.steps, sampler_) {
    timings_.queue = absl::ToDoubleMilliseconds(queued);
  }

  absl::Status WithMemory();
  absl::Status WithoutMemory();

 private:
  const MemoryConfig& memory_config() const { return parts_.transformer.config().memory; }
  int32_t top_k() const { return request_.top_k.value_or(memory_config().top_k); }
  bool reader_causal() const { return !memory_config().reader_full_attention; }
  int32_t answer_tokens() const { return request_.max_new_tokens.value_or(kDefaultAnswerTokens); }

  absl::Status Send(const rpc::GenerateEvent& event) {
    return sink_(event) ? absl::OkStatus() : absl::CancelledError("the client went away");
  }

  // What `tokenise` gives, its time counted.
  template <typename Tokenise>
  auto Timed(const Tokenise& tokenise) {
    const Stopwatch watch(timings_.tokenize);
    return tokenise();
  }

  absl::Status Generative(MemorySession& session, const Frames& frames);
  absl::Status RouterMode(MemorySession& session, const Frames& frames);
  // Prefill with routing, and the round's event.
  absl::StatusOr<Prefill> RouteRound(MemorySession& session, const RoutingPrompt& prompt);
  // Texts of `references`, ascending, remembered as read; unknown and deleted ones are left out.
  // Sends the event.
  absl::StatusOr<std::vector<ReferencedText>> Load(MemorySession& session,
                                                   std::vector<int64_t> references);
  absl::StatusOr<Written> WriteRound(Prefill& state);
  absl::StatusOr<Written> WriteAnswer(Prefill& state, std::optional<TokenBias> first = {});
  absl::Status FinalAnswer(MemorySession& session, const Dialogue& dialogue, Prefill& state,
                           std::string finish_reason);
  // INVALID_ARGUMENT when the model does not hold the prompt.
  absl::Status CheckLength(size_t tokens) const;
  absl::StatusOr<Prefill> PlainPrefill(absl::Span<const int32_t> ids, bool causal);
  // Over `texts` (ascending by reference).
  absl::StatusOr<std::vector<int32_t>> ReaderPrompt(const Frames& frames,
                                                    absl::Span<const ReferencedText> texts);
  absl::StatusOr<Prefill> Read(const Frames& frames, absl::Span<const ReferencedText> texts);
  // Reads `texts` together and each by itself: the reading over which the model is least inclined
  // to begin with `refusal`; the one of them together has to be so by reader_apart_margin. Notes
  // which text it was.
  absl::StatusOr<Prefill> ReadApart(const Frames& frames, absl::Span<const ReferencedText> texts,
                                    int32_t refusal);
  absl::Status Finish(MemorySession* session, std::string answer, std::string finish_reason);

  const rpc::CallContext& ctx_;
  const AnsweringParts& parts_;
  const rpc::GenerateRequest& request_;
  const rpc::EventSink& sink_;
  const absl::Time start_;
  Sampler sampler_;
  Decoder decoder_;
  rpc::Usage usage_;
  rpc::Timings timings_;
  std::map<int64_t, float> scores_;        // best mean score a reference had in any round
  std::map<int64_t, int32_t> votes_;       // of the last round
  std::vector<rpc::RoutedDocument> read_;  // loaded so far
  std::set<int64_t> read_references_;
  std::vector<int64_t> answered_from_;  // of one reading of several; empty: of all that was read
};

absl::Status Answering::WithMemory() {
  MSA_ASSIGN_OR_RETURN(const RetrievalMode mode,
                       ParseRetrievalMode(request_.mode.value_or(
                           std::string(RetrievalModeName(memory_config().retrieval_mode)))));
  MSA_ASSIGN_OR_RETURN(
      auto session,
      MemorySession::Open(ctx_, parts_.transformer, parts_.prefix, parts_.memory, request_.bank,
                          {request_.allow_partial, request_.scan, {}}));
  const Frames frames(parts_.tokenizer, session->bank().parse_special_tokens);
  return mode == RetrievalMode::kGenerative ? Generative(*session, frames)
                                            : RouterMode(*session, frames);
}

absl::StatusOr<Prefill> Answering::RouteRound(MemorySession& session, const RoutingPrompt& prompt) {
  MSA_ASSIGN_OR_RETURN(Prefill state, session.Route(ctx_, prompt, top_k(), nullptr));
  MSA_ASSIGN_OR_RETURN(const auto ranked, session.Rank(ctx_, kShownDocuments, {}, false));
  std::vector<int64_t> references;
  for (const rpc::RankedPart& part : ranked) references.push_back(part.scored.reference);
  MSA_ASSIGN_OR_RETURN(auto texts, session.GetParts(ctx_, references));
  const auto known = ByReference(std::move(texts));
  votes_ = Votes(state.selections);
  rpc::RoutingEvent event;
  event.round = session.round();
  event.layers = state.selections;
  event.missing_shards = session.missing_shards();
  for (const rpc::RankedPart& part : ranked) {
    const int64_t reference = part.scored.reference;
    const auto it = known.find(reference);
    const auto [score, inserted] = scores_.try_emplace(reference, part.scored.score);
    if (!inserted) score->second = std::max(score->second, part.scored.score);
    event.documents.push_back(
        Describe(part.scored, it == known.end() ? nullptr : &it->second, votes_[reference]));
  }
  MSA_RETURN_IF_ERROR(Send(event));
  return state;
}

absl::StatusOr<std::vector<ReferencedText>> Answering::Load(MemorySession& session,
                                                            std::vector<int64_t> references) {
  references = Dialogue::InReadingOrder(std::move(references));
  MSA_ASSIGN_OR_RETURN(auto found, session.GetParts(ctx_, references));
  std::vector<ReferencedText> texts;
  rpc::DocumentsLoadedEvent event;
  event.round = session.round();
  for (rpc::PartText& part : found) {
    const auto score = scores_.find(part.reference);
    const ScoredPart scored{score == scores_.end() ? kNoScore : score->second, part.reference};
    event.documents.push_back(Describe(scored, &part, votes_[part.reference]));
    if (read_references_.insert(part.reference).second) read_.push_back(event.documents.back());
    texts.push_back({part.reference, std::move(part.text)});
  }
  if (!event.documents.empty()) MSA_RETURN_IF_ERROR(Send(event));
  return texts;
}

absl::StatusOr<Written> Answering::WriteRound(Prefill& state) {
  const absl::Time start = absl::Now();
  DecodeOptions options;
  options.max_new_tokens = kMaxRoundTokens;
  options.stop = [](std::string_view text) {
    return Dialogue::Judge(text, false) != RoundEnd::kContinue;
  };
  options.on_text = [this](const std::string& text) {
    return sink_(rpc::TextEvent{text, /*retrieval=*/true});
  };
  MSA_ASSIGN_OR_RETURN(Written written, decoder_.Decode(ctx_, state, options));
  usage_.generated_tokens += static_cast<int32_t>(written.ids.size());
  timings_.decode += absl::ToDoubleMilliseconds(absl::Now() - start);
  return written;
}

absl::StatusOr<Written> Answering::WriteAnswer(Prefill& state, std::optional<TokenBias> first) {
  const absl::Time start = absl::Now();
  DecodeOptions options;
  options.first = first;
  options.max_new_tokens = answer_tokens();
  options.on_text = [this, start](const std::string& text) {
    if (timings_.first_token == 0) {
      timings_.first_token = timings_.queue + absl::ToDoubleMilliseconds(absl::Now() - start_);
      timings_.first_decode = absl::ToDoubleMilliseconds(absl::Now() - start);
    }
    return sink_(rpc::TextEvent{text, /*retrieval=*/false});
  };
  MSA_ASSIGN_OR_RETURN(Written written, decoder_.Decode(ctx_, state, options));
  usage_.generated_tokens += static_cast<int32_t>(written.ids.size());
  timings_.decode += absl::ToDoubleMilliseconds(absl::Now() - start);
  return written;
}

absl::Status Answering::FinalAnswer(MemorySession& session, const Dialogue& dialogue,
                                    Prefill& state, std::string finish_reason) {
  MSA_ASSIGN_OR_RETURN(const auto question, Timed([&] { return dialogue.FinalQuestion(); }));
  MSA_RETURN_IF_ERROR(CheckLength(static_cast<size_t>(state.next_position) + question.size()));
  MSA_RETURN_IF_ERROR(decoder_.Feed(state, question, memory_config().final_question_causal));
  usage_.prompt_tokens += static_cast<int32_t>(question.size());
  MSA_ASSIGN_OR_RETURN(const Written written, WriteAnswer(state));
  if (finish_reason.empty()) finish_reason = written.hit_limit ? "length" : "stop";
  return Finish(&session, Dialogue::Answer(written.text), std::move(finish_reason));
}

absl::Status Answering::Generative(MemorySession& session, const Frames& frames) {
  Dialogue dialogue(frames, request_.question);
  const int32_t max_rounds = request_.max_rounds.value_or(kDefaultGenerativeRounds);
  int32_t rounds_without_news = 0;
  while (true) {
    MSA_ASSIGN_OR_RETURN(const RoutingPrompt prompt, Timed([&] { return dialogue.Prompt(); }));
    MSA_ASSIGN_OR_RETURN(Prefill state, RouteRound(session, prompt));
    // The last documents are in the context; whoever may not look for more answers from them.
    if (session.round() > max_rounds || rounds_without_news >= kMaxRoundsWithoutNews) {
      return FinalAnswer(session, dialogue, state, "rounds");
    }
    MSA_ASSIGN_OR_RETURN(const Written written, WriteRound(state));
    const RoundEnd end = Dialogue::Judge(written.text, written.ended_message);
    if (end == RoundEnd::kFinalQuestion) return FinalAnswer(session, dialogue, state, "");
    if (end == RoundEnd::kReply) return Finish(&session, "", "no_retrieval");
    if (end == RoundEnd::kContinue) return FinalAnswer(session, dialogue, state, "length");
    const size_t read_before = read_.size();
    dialogue.AppendWritten(written.ids);
    MSA_ASSIGN_OR_RETURN(const auto texts, Load(session, Dialogue::References(written.text)));
    dialogue.AppendDocuments(texts);
    rounds_without_news = read_.size() == read_before ? rounds_without_news + 1 : 0;
  }
}

absl::Status Answering::RouterMode(MemorySession& session, const Frames& frames) {
  Dialogue dialogue(frames, request_.question);
  const int32_t wanted = request_.reader_documents.value_or(memory_config().reader_documents);
  const int32_t max_rounds = request_.max_rounds.value_or(memory_config().router_rounds);
  std::vector<int64_t> taken;
  std::vector<ReferencedText> texts;
  int32_t rounds_read = 0;
  for (int32_t round = 1; round <= max_rounds; ++round) {
    MSA_ASSIGN_OR_RETURN(const RoutingPrompt prompt, Timed([&] { return dialogue.Prompt(); }));
    if (round > 1 && !session.Holds(prompt)) break;  // answers from what it has
    MSA_RETURN_IF_ERROR(RouteRound(session, prompt).status());
    MSA_ASSIGN_OR_RETURN(const auto ranked, session.Rank(ctx_, wanted, taken, false));
    std::vector<int64_t> references;
    for (const rpc::RankedPart& part : ranked) {
      if (!Adds(part, round, memory_config())) break;
      references.push_back(part.scored.reference);
      scores_.try_emplace(part.scored.reference, part.scored.score);
    }
    MSA_ASSIGN_OR_RETURN(auto loaded, Load(session, references));
    if (loaded.empty()) break;
    ++rounds_read;
    dialogue.AppendReferences(references);
    dialogue.AppendDocuments(loaded);
    taken.insert(taken.end(), references.begin(), references.end());
    std::move(loaded.begin(), loaded.end(), std::back_inserter(texts));
  }
  if (texts.empty()) return Finish(&session, "", "no_retrieval");
  std::sort(texts.begin(), texts.end(),
            [](const auto& a, const auto& b) { return a.reference < b.reference; });
  MSA_ASSIGN_OR_RETURN(const auto refusal, RefusalStart(memory_config(), parts_.tokenizer));
  const bool apart = memory_config().reader_apart_margin.has_value() && refusal.has_value() &&
                     !request_.read_together && rounds_read == 1 && texts.size() > 1 &&
                     static_cast<int32_t>(texts.size()) <= memory_config().reader_documents;
  MSA_ASSIGN_OR_RETURN(Prefill state,
                       apart ? ReadApart(frames, texts, refusal->token) : Read(frames, texts));
  MSA_ASSIGN_OR_RETURN(const Written written, WriteAnswer(state, refusal));
  return Finish(&session, Dialogue::Answer(written.text), written.hit_limit ? "length" : "stop");
}

absl::StatusOr<std::vector<int32_t>> Answering::ReaderPrompt(
    const Frames& frames, absl::Span<const ReferencedText> texts) {
  const ReaderQuestion place = memory_config().reader_question;
  return Timed([&] { return frames.Reader(texts, request_.question, place); });
}

absl::StatusOr<Prefill> Answering::Read(const Frames& frames,
                                        absl::Span<const ReferencedText> texts) {
  MSA_ASSIGN_OR_RETURN(const auto ids, ReaderPrompt(frames, texts));
  return PlainPrefill(ids, reader_causal());
}

absl::StatusOr<Prefill> Answering::ReadApart(const Frames& frames,
                                             absl::Span<const ReferencedText> texts,
                                             int32_t refusal) {
  std::vector<std::vector<int32_t>> prompts(1 + texts.size());
  MSA_ASSIGN_OR_RETURN(prompts[0], ReaderPrompt(frames, texts));
  for (size_t i = 0; i < texts.size(); ++i) {
    MSA_ASSIGN_OR_RETURN(prompts[1 + i], ReaderPrompt(frames, texts.subspan(i, 1)));
  }
  for (const std::vector<int32_t>& ids : prompts) MSA_RETURN_IF_ERROR(CheckLength(ids.size()));
  const absl::Time start = absl::Now();
  MSA_ASSIGN_OR_RETURN(TakenReading taken,
                       decoder_.FeedLeastRefused(ctx_, prompts, reader_causal(), answer_tokens(),
                                                 refusal, *memory_config().reader_apart_margin));
  for (const std::vector<int32_t>& ids : prompts) {
    usage_.prompt_tokens += static_cast<int32_t>(ids.size());
  }
  timings_.prefill += absl::ToDoubleMilliseconds(absl::Now() - start);
  if (taken.index > 0) answered_from_ = {texts[taken.index - 1].reference};
  return std::move(taken.state);
}

absl::Status Answering::CheckLength(size_t tokens) const {
  const int32_t most = parts_.transformer.config().max_positions;
  if (std::cmp_less(tokens, most)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("the prompt has ", tokens, " tokens, this model holds ", most,
             ": ask with fewer reader documents or a shorter question"));
}

absl::StatusOr<Prefill> Answering::PlainPrefill(absl::Span<const int32_t> ids, bool causal) {
  MSA_RETURN_IF_ERROR(CheckLength(ids.size()));
  const auto num_tokens = static_cast<int32_t>(ids.size());
  const absl::Time start = absl::Now();
  Prefill state;
  state.cache =
      std::make_unique<KvCache>(parts_.transformer.NewCache(num_tokens + answer_tokens()));
  MSA_RETURN_IF_ERROR(decoder_.Feed(state, ids, causal));
  usage_.prompt_tokens += num_tokens;
  timings_.prefill += absl::ToDoubleMilliseconds(absl::Now() - start);
  return state;
}

absl::Status Answering::WithoutMemory() {
  MSA_ASSIGN_OR_RETURN(const ChatTemplate chat,
                       ChatTemplate::Recognise(parts_.tokenizer.chat_template()));
  const ChatMessage message{"user", request_.question};
  MSA_ASSIGN_OR_RETURN(const Tokenizer::Text text, chat.Format({&message, 1}, {}));
  MSA_ASSIGN_OR_RETURN(const auto ids, Timed([&] { return parts_.tokenizer.Encode(text); }));
  MSA_ASSIGN_OR_RETURN(Prefill state, PlainPrefill(ids, /*causal=*/true));
  MSA_ASSIGN_OR_RETURN(const Written written, WriteAnswer(state));
  return Finish(nullptr, Dialogue::Answer(written.text), written.hit_limit ? "length" : "stop");
}

absl::Status Answering::Finish(MemorySession* session, std::string answer,
                               std::string finish_reason) {
  rpc::DoneEvent done;
  done.answer = std::move(answer);
  done.finish_reason = std::move(finish_reason);
  const bool retrieved = done.finish_reason != "no_retrieval";
  done.no_answer = !retrieved || Dialogue::IsRefusal(done.answer, memory_config().refusal);
  done.documents = read_;
  done.answered_from = std::move(answered_from_);
  if (done.answered_from.empty() && retrieved) {
    done.answered_from.assign(read_references_.begin(), read_references_.end());
  }
  std::stable_sort(done.documents.begin(), done.documents.end(),
                   [](const rpc::RoutedDocument& a, const rpc::RoutedDocument& b) {
                     return Precedes({a.score, a.reference}, {b.score, b.reference});
                   });
  done.usage = usage_;
  done.timings = timings_;
  if (session != nullptr) {
    const rpc::Usage& routed = session->usage();
    done.usage.prompt_tokens += routed.prompt_tokens;
    done.usage.rounds = routed.rounds;
    done.usage.attended_chunks = routed.attended_chunks;
    done.usage.fetched_bytes = routed.fetched_bytes;
    done.usage.memory_parts = routed.memory_parts;
    done.timings.prefill += session->timings().prefill;
    done.timings.route = session->timings().route;
    done.timings.fetch = session->timings().fetch;
    done.missing_shards = session->missing_shards();
  }
  done.timings.total = absl::ToDoubleMilliseconds(absl::Now() - start_) + timings_.queue;
  return Send(done);
}

}  // namespace

absl::Status AnswerQuestion(const rpc::CallContext& ctx, const AnsweringParts& parts,
                            const rpc::GenerateRequest& request, absl::Duration queued,
                            const rpc::EventSink& sink) {
  Answering answering(ctx, parts, request, queued, sink);
  return request.use_memory ? answering.WithMemory() : answering.WithoutMemory();
}

absl::StatusOr<rpc::RetrieveReply> RetrieveDocuments(const rpc::CallContext& ctx,
                                                     const AnsweringParts& parts,
                                                     const rpc::RetrieveRequest& request) {
  const absl::Time start = absl::Now();
  const MemoryConfig& config = parts.transformer.config().memory;
  MSA_ASSIGN_OR_RETURN(
      auto session,
      MemorySession::Open(ctx, parts.transformer, parts.prefix, parts.memory, request.bank,
                          {request.allow_partial, request.scan, request.compare_candidates}));
  const Frames frames(parts.tokenizer, session->bank().parse_special_tokens);
  Dialogue dialogue(frames, request.question);
  const int32_t max_rounds = request.max_rounds.value_or(config.router_rounds);
  rpc::RetrieveReply reply;
  std::vector<int64_t> taken;
  std::vector<rpc::RankedPart> unread;  // of the last round, best first
  std::set<std::string> seen;           // another part of a document may rank in a later round
  std::map<int64_t, int32_t> votes;     // of the last round
  for (int32_t round = 1; round <= max_rounds; ++round) {
    MSA_ASSIGN_OR_RETURN(const RoutingPrompt prompt, dialogue.Prompt());
    // A later prompt that is longer than the model ends the rounds as one that adds nothing does.
    const bool routes = round == 1 || session->Holds(prompt);
    if (routes) {
      MSA_ASSIGN_OR_RETURN(
          const Prefill state,
          session->Route(ctx, prompt, request.top_k.value_or(config.top_k), nullptr));
      votes = Votes(state.selections);
    }
    // Every round but the last takes what the reader would; the last fills up to the limit.
    const auto missing = request.limit - static_cast<int32_t>(reply.documents.size());
    const bool last = round == max_rounds;
    const int32_t wanted = last ? missing : std::min(missing, config.reader_documents);
    if (wanted <= 0) break;
    std::vector<rpc::RankedPart> ranked;
    if (routes) {
      MSA_ASSIGN_OR_RETURN(ranked, session->Rank(ctx, missing, taken, true));
    }
    // A round that adds nothing is the last: the ranking of the one before goes on.
    const bool adds = !ranked.empty() && Adds(ranked.front(), round, config);
    if (!adds) ranked = std::move(unread);
    const auto taken_now = std::min<size_t>(ranked.size(), adds ? wanted : missing);
    unread.assign(ranked.begin() + taken_now, ranked.end());
    ranked.resize(taken_now);
    std::vector<int64_t> references;
    for (const rpc::RankedPart& part : ranked) references.push_back(part.scored.reference);
    MSA_ASSIGN_OR_RETURN(auto found, session->GetParts(ctx, references));
    const auto known = ByReference(std::move(found));
    std::vector<ReferencedText> texts;
    for (const rpc::RankedPart& part : ranked) {
      const auto it = known.find(part.scored.reference);
      if (it == known.end() || !seen.insert(it->second.document_id).second) continue;
      reply.documents.push_back(Describe(part.scored, &it->second, votes[it->first]));
    }
    for (const auto& [reference, part] : known) texts.push_back({reference, part.text});
    if (texts.empty() || !adds) break;
    dialogue.AppendReferences(references);
    dialogue.AppendDocuments(texts);
    taken.insert(taken.end(), references.begin(), references.end());
  }
  reply.missing_shards = session->missing_shards();
  reply.comparisons = session->comparisons();
  reply.timings = session->timings();
  reply.timings.total = absl::ToDoubleMilliseconds(absl::Now() - start);
  return reply;
}

}  // namespace msa::compute_node
