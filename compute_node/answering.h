// One question from first prompt to answer: retrieval rounds in either mode, final question,
// reader, events.
#ifndef MSA_COMPUTE_NODE_ANSWERING_H_
#define MSA_COMPUTE_NODE_ANSWERING_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "compute_node/decoding.h"
#include "compute_node/dialogue.h"
#include "compute_node/memory_session.h"
#include "rpc/compute_node.h"

namespace msa::compute_node {

// What every question shares; borrowed for as long as the node lives.
struct AnsweringParts {
  const Transformer& transformer;
  const Tokenizer& tokenizer;
  const TemplatePrefix& prefix;
  const MemoryAccess& memory;
  StepBatcher& steps;
};

// Limits of our own, wide enough never to fire on the published engine's cases.
inline constexpr int32_t kDefaultGenerativeRounds = 8;
inline constexpr int32_t kMaxRoundTokens = 512;
inline constexpr int32_t kMaxRoundsWithoutNews = 3;
inline constexpr int32_t kDefaultAnswerTokens = 256;

// Sends events to `sink`, a DoneEvent last. INVALID_ARGUMENT for options the model cannot serve;
// CANCELLED when the sink says the client is gone.
absl::Status AnswerQuestion(const rpc::CallContext& ctx, const AnsweringParts& parts,
                            const rpc::GenerateRequest& request, absl::Duration queued,
                            const rpc::EventSink& sink);

// The best `request.limit` documents, each once, no generation. Rounds as in router mode.
absl::StatusOr<rpc::RetrieveReply> RetrieveDocuments(const rpc::CallContext& ctx,
                                                     const AnsweringParts& parts,
                                                     const rpc::RetrieveRequest& request);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_ANSWERING_H_
