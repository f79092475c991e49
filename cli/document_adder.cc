#include "cli/document_adder.h"

#include <algorithm>
#include <ostream>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/json.h"
#include "common/strings.h"

namespace msa::cli {

DocumentAdder::DocumentAdder(DocumentReader& reader, Io& io, bool json)
    : reader_(reader),
      io_(io),
      json_(json),
      progress_(io.err, io.err_is_terminal && !(json && io.out_is_terminal)),
      start_(absl::Now()) {}

absl::Status DocumentAdder::Run(rpc::MemoryService& service, rpc::CallContext ctx,
                                const std::string& bank) {
  ctx.input_over = io_.stop_in;
  const absl::Status stream = service.AddDocuments(
      ctx, bank, [this] { return Next(); },
      [this](const rpc::AddResult& result) { return Done(result); });
  absl::MutexLock lock(&mu_);
  progress_.Clear();
  if (!stream.ok() && totals_.added == 0) return stream;
  if (!stream.ok()) {
    return absl::Status(stream.code(), StrCat(stream.message(), " (", totals_.added,
                                              " documents were added before)"));
  }
  if (totals_.failed == 0) return absl::OkStatus();
  return absl::Status(
      totals_.first_failure.code(),
      StrCat(totals_.failed, " of ", totals_.added + totals_.failed,
             " documents were not added; the first: ", totals_.first_failure.message()));
}

std::optional<rpc::NewDocument> DocumentAdder::Next() {
  while (std::optional<ReadDocument> read = reader_.Next()) {
    absl::MutexLock lock(&mu_);
    if (!read->status.ok()) {
      ReportFailure(read->document.id, read->where, read->status);
      continue;
    }
    sent_.push_back({std::move(read->where), reader_.consumed_bytes()});
    return std::move(read->document);
  }
  return std::nullopt;
}

bool DocumentAdder::Done(const rpc::AddResult& result) {
  absl::MutexLock lock(&mu_);
  const Sent sent = result.index < sent_.size() ? sent_[result.index] : Sent{};
  if (result.status.ok()) {
    ReportAdded(result);
  } else {
    ReportFailure(result.id, sent.where, result.status);
  }
  DrawProgress(sent.end_bytes);
  return true;
}

void DocumentAdder::ReportAdded(const rpc::AddResult& result) {
  ++totals_.added;
  totals_.tokens += result.put.num_tokens;
  totals_.chunks += result.put.num_chunks;
  if (!json_) return;
  io_.out << Dump({{"id", result.id},
                   {"revision", result.put.revision},
                   {"tokens", result.put.num_tokens},
                   {"chunks", result.put.num_chunks},
                   {"parts", result.put.num_parts}})
          << "\n"
          << std::flush;
}

void DocumentAdder::ReportFailure(const std::string& id, const std::string& where,
                                  const absl::Status& status) {
  const absl::Status located(status.code(), StrCat(where, ": ", status.message()));
  if (totals_.failed++ == 0) totals_.first_failure = located;
  if (json_) {
    io_.out << Dump({{"id", id}, {"error", ToJson(located)}}) << "\n" << std::flush;
    return;
  }
  progress_.Clear();
  io_.err << located.message() << "\n";
}

void DocumentAdder::DrawProgress(uint64_t done_bytes) {
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(absl::Now() - start_));
  progress_.Update(
      done_bytes, reader_.total_bytes(),
      StrCat(WithCommas(totals_.added), totals_.added == 1 ? " document" : " documents",
             absl::StrFormat(", %.0f tokens/s", totals_.tokens / seconds)));
}

std::string DocumentAdder::SummaryLocked() const {
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(absl::Now() - start_));
  return StrCat(WithCommas(totals_.added), totals_.added == 1 ? " document, " : " documents, ",
                WithCommas(totals_.tokens), " tokens, ", absl::StrFormat("%.1f s", seconds),
                absl::StrFormat(", %.1f documents/s", totals_.added / seconds),
                absl::StrFormat(", %.0f tokens/s", totals_.tokens / seconds));
}

std::string DocumentAdder::Summary() const {
  absl::MutexLock lock(&mu_);
  return SummaryLocked();
}

AddTotals DocumentAdder::totals() const {
  absl::MutexLock lock(&mu_);
  return totals_;
}

}  // namespace msa::cli
