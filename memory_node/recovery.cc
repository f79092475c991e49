#include "memory_node/recovery.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "memory_node/key_loading.h"
#include "memory_node/validation.h"

namespace msa::memory_node {
namespace {

using Priority = DocumentStore::Priority;

FoundDocument FromDescription(const rpc::BankSpec& bank, const Description& description) {
  FoundDocument found{std::make_shared<DocumentEntry>(), {}, {}};
  DocumentEntry& entry = *found.entry;
  entry.id = description.info.id;
  entry.revision = description.info.revision;
  entry.max_reference = description.max_reference;
  for (const rpc::PartInfo& part : description.info.parts) {
    entry.references.push_back(part.reference);
    entry.part_tokens.push_back(part.num_tokens);
    entry.num_tokens += part.num_tokens;
    entry.num_chunks += part.routing_chunks;
    found.chunks.push_back(part.routing_chunks);
    found.content_chunks.push_back((part.num_tokens + bank.content_chunk_tokens - 1) /
                                   bank.content_chunk_tokens);
  }
  return found;
}

// What `decode` makes of a bank's own record in `system`; NOT_FOUND where there is none. One that
// it refuses is damaged; where nothing can be read, perhaps there was none.
template <class Decode>
auto ReadOwn(DocumentStore& store, const std::string& key, const Decode& decode, bool* damaged)
    -> decltype(decode(std::string_view())) {
  *damaged = false;
  MSA_ASSIGN_OR_RETURN(const auto stored, store.Get(Table::kSystem, key));
  auto value = decode(stored.view());
  *damaged = !value.ok();
  return value;
}

class BankLoader {
 public:
  BankLoader(DocumentStore& store, std::shared_ptr<Bank> bank)
      : store_(store), bank_(std::move(bank)), spec_(bank_->spec()) {}

  absl::Status Load() {
    MSA_RETURN_IF_ERROR(ScanMeta());
    std::sort(documents_.begin(), documents_.end(),
              [](const FoundDocument& a, const FoundDocument& b) {
                return a.entry->references.front() < b.entry->references.front();
              });
    MSA_RETURN_IF_ERROR(
        LoadKeys(store_, bank_, documents_,
                 [this](const auto& entry, const absl::Status& why) { Damage(entry, why); }));
    LoadNextReference();
    return absl::OkStatus();
  }

 private:
  std::string Prefix() const { return BankPrefix(spec_.uid); }

  void Damage(std::shared_ptr<DocumentEntry> entry, const absl::Status& why) {
    entry->damage = std::string(why.message());
    bank_->AddCorruptRecord();
    Log(LogLevel::kError, "a document is damaged and will not be served",
        {{"bank", spec_.name}, {"id", entry->id}, {"why", entry->damage}});
    // References that another document claims too are left to that one.
    if (!bank_->Reserve(entry).ok()) entry->references.clear();
    bank_->Install(entry, 0);
  }

  // `id` is what the key says.
  absl::Status AddMeta(const std::string& id, std::string_view value) {
    MSA_ASSIGN_OR_RETURN(const BlockRecord record, DecodeRecord(value));
    const BlockIdentity& is = record.identity;
    if (is.kind == RecordKind::kTombstone) {
      MSA_RETURN_IF_ERROR(CheckIdentity(
          is, PlainIdentity(spec_, RecordKind::kTombstone, is.reference, is.revision)));
      MSA_ASSIGN_OR_RETURN(const int64_t max_reference, DecodeTombstonePayload(record.payload));
      bank_->RaiseNextReference(max_reference + 1);
      return absl::OkStatus();
    }
    MSA_ASSIGN_OR_RETURN(const DocumentPayload payload, DecodeDocumentPayload(record.payload));
    const Description& description = payload.description;
    MSA_RETURN_IF_ERROR(
        CheckIdentity(is, PlainIdentity(spec_, RecordKind::kDocument, description.first_reference(),
                                        description.info.revision)));
    if (description.info.id != id) {
      return absl::DataLossError(StrCat("record is of document '", description.info.id, "'"));
    }
    bank_->RaiseNextReference(description.max_reference + 1);
    documents_.push_back(FromDescription(spec_, description));
    documents_.back().entry->put_digest = payload.put_digest;
    return absl::OkStatus();
  }

  void AddMetaOrDamage(std::string_view key, std::string_view value) {
    const std::string id(key.substr(Prefix().size()));
    if (id.empty()) return;  // the copy of the bank's record
    const absl::Status status = AddMeta(id, value);
    if (!status.ok()) Damage(FromText(id), status);
  }

  absl::Status ScanMeta() {
    auto cursor = store_.NewCursor(Table::kMeta, /*sequential=*/true);
    const std::string end = PrefixEnd(Prefix());
    std::string last = Prefix();
    for (cursor->Seek(last); cursor->Valid() && cursor->key() < end; cursor->Next()) {
      last = cursor->key();
      AddMetaOrDamage(cursor->key(), cursor->value());
    }
    if (absl::IsDataLoss(cursor->status())) return RescueMeta(last);
    return cursor->status();
  }

  // A block of `meta` cannot be read, nor which ids it holds. Texts name them: look each up alone.
  absl::Status RescueMeta(const std::string& last) {
    bank_->AddCorruptRecord();
    Log(LogLevel::kError,
        "part of a bank's list of documents cannot be read: looking them up one by one",
        {{"bank", spec_.name}});
    MSA_RETURN_IF_ERROR(ScanTexts());
    for (const auto& [id, found] : texts_) {
      const std::string key = MetaKey(spec_.uid, id);
      if (key <= last) continue;
      auto value = store_.Get(Table::kMeta, key);
      if (value.ok()) {
        AddMetaOrDamage(key, value->view());
      } else if (!absl::IsNotFound(value.status())) {
        Damage(found.entry, value.status());
      }
    }
    return absl::OkStatus();
  }

  // The latest revision of each id that `text` tells of.
  absl::Status ScanTexts() {
    if (texts_scanned_) return absl::OkStatus();
    texts_scanned_ = true;
    auto cursor = store_.NewCursor(Table::kText, /*sequential=*/true);
    const std::string end = PrefixEnd(Prefix());
    for (cursor->Seek(Prefix()); cursor->Valid() && cursor->key() < end; cursor->Next()) {
      auto record = DecodeRecord(cursor->value());
      if (!record.ok()) continue;
      auto text = DecodeTextPayload(record->payload);
      if (!text.ok()) continue;
      FoundDocument& found = texts_[text->description.info.id];
      if (found.entry == nullptr || found.entry->revision < text->description.info.revision) {
        found = FromDescription(spec_, text->description);
      }
    }
    // What is behind a damaged block of texts stays unknown.
    return absl::IsDataLoss(cursor->status()) ? absl::OkStatus() : cursor->status();
  }

  // What the texts know of a document whose own record is damaged.
  std::shared_ptr<DocumentEntry> FromText(const std::string& id) {
    const absl::Status status = ScanTexts();
    if (const auto it = texts_.find(id); status.ok() && it != texts_.end()) return it->second.entry;
    auto entry = std::make_shared<DocumentEntry>();
    entry->id = id;
    return entry;
  }

  // What was taken and not stored nobody else knows: given again, it would be two documents'.
  absl::StatusOr<int64_t> ReadTakenReferences() {
    bool damaged;
    const absl::StatusOr<int64_t> taken =
        ReadOwn(store_, TakenReferencesKey(spec_.uid), DecodeNextReference, &damaged);
    if (absl::IsNotFound(taken.status())) return 0;
    if (taken.ok()) return taken;
    const absl::Status lost = absl::DataLossError(
        StrCat("which reference numbers of bank '", spec_.name, "' were taken cannot be read (",
               std::string(taken.status().message()),
               "): questions are answered, but nothing can be added. Make another bank (msa bank "
               "create) for what comes, or delete this one and add all again"));
    if (damaged) {
      bank_->AddCorruptRecord();
      Log(LogLevel::kError, std::string(lost.message()));
    }
    return lost;
  }

  void LoadNextReference() {
    // Damaged: what is stored says enough.
    const auto next = store_.Get(Table::kSystem, NextReferenceKey(spec_.uid));
    if (next.ok()) bank_->RaiseNextReference(DecodeNextReference(next->view()).value_or(0));
    bank_->set_references_taken(ReadTakenReferences());
    // A reference above all that is known belongs to a lost record: do not give it out again.
    auto cursor = store_.NewCursor(Table::kRouting, /*sequential=*/false);
    const std::string end = PrefixEnd(Prefix());
    cursor->Seek(TextKey(spec_.uid, bank_->next_reference()));
    for (; cursor->Valid() && cursor->key() < end; cursor->Next()) {
      bank_->RaiseNextReference(KeyReference(cursor->key()) + 1);
    }
  }

  DocumentStore& store_;
  const std::shared_ptr<Bank> bank_;
  const rpc::BankSpec& spec_;
  std::vector<FoundDocument> documents_;
  bool texts_scanned_ = false;
  std::map<std::string, FoundDocument> texts_;
};

// Keys and values of `system` that begin with `kind`.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> SystemRecords(DocumentStore& store,
                                                                               char kind) {
  std::vector<std::pair<std::string, std::string>> records;
  auto cursor = store.NewCursor(Table::kSystem, /*sequential=*/true);
  const std::string prefix(1, kind);
  for (cursor->Seek(prefix); cursor->Valid() && cursor->key() < PrefixEnd(prefix); cursor->Next()) {
    records.emplace_back(cursor->key(), cursor->value());
  }
  MSA_RETURN_IF_ERROR(cursor->status());
  return records;
}

absl::StatusOr<rpc::BankSpec> ReadBank(std::string_view key, std::string_view value) {
  MSA_ASSIGN_OR_RETURN(const BlockRecord record, DecodeRecord(value));
  MSA_ASSIGN_OR_RETURN(rpc::BankSpec spec, DecodeBankPayload(record.payload));
  spec.uid = KeyBankUid(key);
  MSA_RETURN_IF_ERROR(CheckIdentity(record.identity, PlainIdentity(spec, RecordKind::kBank, 0, 0)));
  return spec;
}

// Whether the bank keeps codes. A record that cannot be read costs them, never an answer.
rpc::CoarseState ReadCoarse(DocumentStore& store, Bank& bank) {
  const rpc::BankSpec& spec = bank.spec();
  const auto decode = [&spec](std::string_view record) -> absl::StatusOr<rpc::CoarseState> {
    MSA_ASSIGN_OR_RETURN(const auto payload,
                         VerifyRecord(record, PlainIdentity(spec, RecordKind::kCoarse, 0, 0)));
    MSA_ASSIGN_OR_RETURN(rpc::CoarseState state, DecodeCoarsePayload(payload));
    MSA_RETURN_IF_ERROR(ValidateCoarse(spec, state));
    return state;
  };
  bool damaged;
  const auto state = ReadOwn(store, CoarseKey(spec.uid), decode, &damaged);
  if (state.ok()) return *state;
  if (damaged) bank.AddCorruptRecord();
  if (!absl::IsNotFound(state.status())) {
    Log(LogLevel::kError,
        "the coarse scans' record of a bank is damaged: scans are exact till it is calibrated "
        "again",
        {{"bank", spec.name}});
  }
  return {};
}

// Nothing where there is no record, or it is damaged: any weights are taken then, as before it was
// kept.
std::optional<DType> ReadWeights(DocumentStore& store, const rpc::BankSpec& spec, bool* damaged) {
  const auto decode = [&spec](std::string_view record) -> absl::StatusOr<DType> {
    MSA_ASSIGN_OR_RETURN(const auto payload,
                         VerifyRecord(record, PlainIdentity(spec, RecordKind::kWeights, 0, 0)));
    return DecodeWeightsPayload(payload);
  };
  const auto dtype = ReadOwn(store, WeightsKey(spec.uid), decode, damaged);
  if (dtype.ok()) return *dtype;
  if (!absl::IsNotFound(dtype.status())) {
    Log(LogLevel::kError,
        "what weights a bank was encoded with cannot be read: documents of any are taken",
        {{"bank", spec.name}});
  }
  return std::nullopt;
}

// The uids that `meta` has keys of, one Seek each.
std::set<uint64_t> BanksInMeta(DocumentStore& store) {
  std::set<uint64_t> uids;
  auto cursor = store.NewCursor(Table::kMeta, /*sequential=*/false);
  for (cursor->Seek(""); cursor->Valid() && cursor->key().size() >= sizeof(uint64_t);) {
    const std::string prefix(cursor->key().substr(0, sizeof(uint64_t)));
    uids.insert(KeyBankUid("b" + prefix));
    cursor->Seek(PrefixEnd(prefix));
  }
  return uids;
}

absl::Status SweepBankGarbage(DocumentStore& store, const rpc::BankSpec& spec) {
  const auto listed = SystemRecords(store, 'g');
  // Damaged: what is garbage stays, unread, and takes space.
  if (absl::IsDataLoss(listed.status())) return absl::OkStatus();
  MSA_ASSIGN_OR_RETURN(const auto records, listed);
  for (const auto& [key, value] : records) {
    if (KeyBankUid(key) != spec.uid) continue;
    auto record = DecodeRecord(value);
    auto garbage = record.ok() ? DecodeGarbagePayload(record->payload)
                               : absl::StatusOr<GarbagePayload>(record.status());
    if (!garbage.ok() || garbage->references.empty()) {
      Log(LogLevel::kError, "a garbage record is damaged: its space stays taken",
          {{"bank", spec.name}});
      continue;
    }
    DocumentEntry entry;
    entry.references = garbage->references;
    WriteSet writes;
    AddSweep(spec, entry, &writes);
    absl::Status status = store.Commit(writes, Priority::kUrgent);
    // A full disk must not keep the node from serving; the record stays for the next start.
    if (absl::IsResourceExhausted(status)) return absl::OkStatus();
    MSA_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace

// Every bank has its record twice, in two files: `system`, and `meta` under the empty id. Without
// it none of its documents could be read.
absl::StatusOr<std::map<uint64_t, rpc::BankSpec>> ReadBanks(DocumentStore& store,
                                                            int64_t* damaged) {
  std::map<uint64_t, rpc::BankSpec> specs;
  std::set<uint64_t> uids;
  const auto records = SystemRecords(store, 'b');
  if (records.ok()) {
    for (const auto& [key, value] : *records) uids.insert(KeyBankUid(key));
  } else if (absl::IsDataLoss(records.status())) {
    Log(LogLevel::kError, "the list of banks is damaged: using its copy",
        {{"why", std::string(records.status().message())}});
    uids = BanksInMeta(store);
    *damaged += uids.empty();
  } else {
    return records.status();
  }
  for (uint64_t uid : uids) {
    absl::StatusOr<rpc::BankSpec> spec = absl::DataLossError("no record");
    for (const auto& [table, key] :
         {std::pair(Table::kSystem, BankKey(uid)), std::pair(Table::kMeta, MetaKey(uid, ""))}) {
      auto value = store.Get(table, key);
      if (!spec.ok() && value.ok()) spec = ReadBank(BankKey(uid), value->view());
    }
    if (spec.ok()) {
      specs[uid] = *std::move(spec);
    } else if (records.ok() || store.Get(Table::kMeta, MetaKey(uid, "")).ok()) {
      ++*damaged;
      Log(LogLevel::kError, "a bank is damaged and will not be served",
          {{"uid", absl::StrFormat("%016x", uid)}, {"why", std::string(spec.status().message())}});
    }
  }
  return specs;
}

void AddSweep(const rpc::BankSpec& bank, const DocumentEntry& entry, WriteSet* writes) {
  if (entry.references.empty()) return;
  const int64_t first = entry.references.front();
  writes->Delete(Table::kText, TextKey(bank.uid, first));
  for (int64_t reference : entry.references) {
    for (int32_t layer : bank.router_layers) {
      writes->Delete(Table::kRouting, BlockKey(bank.uid, reference, layer));
      writes->Delete(Table::kContent, BlockKey(bank.uid, reference, layer));
    }
  }
  writes->Delete(Table::kSystem, GarbageKey(bank.uid, first));
}

absl::Status SweepDeletedBank(DocumentStore& store, uint64_t bank_uid,
                              std::atomic<bool>* cancelled) {
  const std::string begin = BankPrefix(bank_uid);
  const std::string end = PrefixEnd(begin);
  constexpr Table kTables[] = {Table::kMeta, Table::kText, Table::kRouting, Table::kContent};
  WriteSet writes;
  for (Table table : kTables) writes.DeleteRange(table, begin, end);
  writes.DeleteRange(Table::kSystem, GarbageKey(bank_uid, 0), PrefixEnd("g" + begin));
  writes.Delete(Table::kSystem, NextReferenceKey(bank_uid));
  writes.Delete(Table::kSystem, TakenReferencesKey(bank_uid));
  writes.Delete(Table::kSystem, CoarseKey(bank_uid));
  writes.Delete(Table::kSystem, WeightsKey(bank_uid));
  MSA_RETURN_IF_ERROR(store.Commit(writes, Priority::kUrgent));
  for (Table table : kTables) {
    MSA_RETURN_IF_ERROR(store.Reclaim(table, begin, end, cancelled));
  }
  // The mark goes last: after a crash the work is begun again. That the uid was used stays known:
  // its references come once.
  WriteSet done;
  done.Delete(Table::kSystem, DeletedBankKey(bank_uid));
  done.Put(Table::kSystem, SweptBankKey(bank_uid), "");
  return store.Commit(done, Priority::kUrgent);
}

absl::StatusOr<RecoveredStore> Recover(DocumentStore& store, const kernels::Backend& backend,
                                       const IndexOptions& options) {
  RecoveredStore recovered;
  MSA_ASSIGN_OR_RETURN(const auto specs, ReadBanks(store, &recovered.damaged_banks));
  for (auto [uid, spec] : specs) {
    bool damaged;
    spec.weights_dtype = ReadWeights(store, spec, &damaged);
    MSA_RETURN_IF_ERROR(SweepBankGarbage(store, spec));
    auto bank = std::make_shared<Bank>(spec, backend, options);
    if (damaged) bank->AddCorruptRecord();
    bank->set_coarse(ReadCoarse(store, *bank));
    MSA_RETURN_IF_ERROR(bank->index().KeepCodes(bank->coarse().codes));
    MSA_RETURN_IF_ERROR(BankLoader(store, bank).Load());
    recovered.banks.push_back(std::move(bank));
  }
  return recovered;
}

}  // namespace msa::memory_node
