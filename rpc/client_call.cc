#include "rpc/client_call.h"

#include <grpcpp/create_channel.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "rpc/address.h"
#include "rpc/allocator.h"
#include "rpc/channel_args.h"
#include "rpc/tls_credentials.h"

namespace msa::rpc {
namespace {

// How soon a caller's cancellation is noticed: it is a flag, not a notification.
constexpr absl::Duration kCancelPoll = absl::Milliseconds(10);

std::shared_ptr<grpc::Channel> MakeChannel(
    const RemoteOptions& options, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments args;
  const int backoff = static_cast<int>(absl::ToInt64Milliseconds(options.max_reconnect_backoff));
  for (const auto& [name, value] : ClientChannelArgs(backoff)) args.SetInt(name, value);
  args.SetMaxReceiveMessageSize(static_cast<int>(kMaxRpcMessageBytes));
  args.SetMaxSendMessageSize(static_cast<int>(kMaxRpcMessageBytes));
  return grpc::CreateCustomChannel(options.address, credentials, args);
}

}  // namespace

absl::Status CheckApiKeyTravels(const RemoteOptions& options) {
  if (options.api_key.empty() || options.tls.connects() || IsLoopback(options.address)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the API key is not sent to ", options.address,
                   " in plain text, which others can read: give --tls-ca to speak TLS, or unset "
                   "MSA_API_KEY and --api-key-file for a server without keys"));
}

Peer::Peer(RemoteOptions options, std::string service)
    : options_(std::move(options)),
      service_(std::move(service)),
      api_key_travels_(CheckApiKeyTravels(options_)) {
  KeepFreedMemory();
  const auto credentials = ClientCredentials(options_.tls);
  for (int i = 0; i < 1 + std::max(options_.data_connections, 1); ++i) {
    channels_.push_back(MakeChannel(options_, credentials));
  }
}

std::string Peer::Name() const {
  if (options_.name.empty()) return options_.address;
  return absl::StrCat(options_.name, " (", options_.address, ")");
}

std::shared_ptr<grpc::Channel> Peer::ChannelFor(Kind kind) {
  if (kind != Kind::kData) return channels_[0];
  return channels_[1 + next_data_.fetch_add(1) % (channels_.size() - 1)];
}

absl::Time Peer::DeadlineFor(Kind kind, const CallContext& context) const {
  if (context.deadline != absl::InfiniteFuture()) return context.deadline;
  return absl::Now() + (kind == Kind::kStream ? options_.stream_timeout : options_.timeout);
}

absl::Status Peer::Translate(const grpc::Status& status, grpc::Channel* channel,
                             bool cancelled) const {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return absl::UnavailableError(absl::StrCat(Name(), ": ", status.error_message()));
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      if (channel->GetState(false) != GRPC_CHANNEL_READY) {
        return absl::UnavailableError(absl::StrCat(Name(), ": no connection before the deadline"));
      }
      return absl::DeadlineExceededError(absl::StrCat(Name(), ": ", status.error_message()));
    case grpc::StatusCode::CANCELLED:
      if (cancelled) return FromGrpc(status);
      return absl::UnavailableError(absl::StrCat(
          Name(), " ended the call: it, or one that it calls, is stopping. Try again"));
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
      // Of a process of the cluster: its key, not that of the user whom it works for.
      if (options_.name.empty()) return FromGrpc(status);
      return absl::FailedPreconditionError(
          absl::StrCat(Name(), " does not let this process in: ", status.error_message()));
    default:
      return FromGrpc(status);
  }
}

ClientCall::ClientCall(Peer* peer, Peer::Kind kind, const char* method, const CallContext& context)
    : peer_(peer), context_(context), channel_(peer->ChannelFor(kind)), stub_(channel_) {
  const absl::Time deadline = peer->DeadlineFor(kind, context);
  if (context.Cancelled()) {
    refused_ = absl::CancelledError("the client is gone");
  } else if (deadline <= absl::Now()) {
    refused_ = absl::DeadlineExceededError("the deadline had passed before the call was made");
  } else {
    refused_ = peer->api_key_travels();
  }
  if (!refused_.ok()) return;
  client_context_.set_deadline(absl::ToChronoTime(deadline));
  if (!context.request_id.empty()) client_context_.AddMetadata("x-request-id", context.request_id);
  if (const std::string& key = peer->options().api_key; !key.empty()) {
    client_context_.AddMetadata("authorization", absl::StrCat("Bearer ", key));
  }
  // Headers travel with the first message, in one packet.
  client_context_.set_initial_metadata_corked(true);
  stream_ =
      stub_.PrepareCall(&client_context_, absl::StrCat("/", peer->service(), "/", method), &queue_);
  stream_->StartCall(nullptr);
}

ClientCall::~ClientCall() {
  if (stream_ != nullptr && !finished_) {
    Cancel();
    (void)Finish();
  }
  queue_.Shutdown();
  void* tag;
  bool ok;
  while (queue_.Next(&tag, &ok)) {
  }
}

void* ClientCall::Begin(Tag tag) {
  absl::MutexLock lock(&mutex_);
  operations_[tag].pending = true;
  return reinterpret_cast<void*>(static_cast<uintptr_t>(tag));
}

bool ClientCall::Wait(Tag tag) {
  absl::MutexLock lock(&mutex_);
  while (operations_[tag].pending) Poll();
  return operations_[tag].ok;
}

void ClientCall::Poll() {
  if (polling_) {
    changed_.Wait(&mutex_);
    return;
  }
  polling_ = true;
  mutex_.Unlock();
  void* tag = nullptr;
  bool ok = false;
  const absl::Time until = context_.cancelled ? absl::Now() + kCancelPoll : absl::InfiniteFuture();
  const auto event = queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(until));
  if (event == grpc::CompletionQueue::TIMEOUT && context_.Cancelled()) Cancel();
  mutex_.Lock();
  polling_ = false;
  if (event == grpc::CompletionQueue::GOT_EVENT) {
    operations_[reinterpret_cast<uintptr_t>(tag)] = {.pending = false, .ok = ok};
  }
  changed_.SignalAll();
}

bool ClientCall::Write(const grpc::ByteBuffer& message, bool last) {
  if (stream_ == nullptr) return false;
  void* tag = Begin(kWrite);
  grpc::WriteOptions options;
  if (last) options.set_last_message();
  stream_->Write(message, options, tag);
  return Wait(kWrite);
}

bool ClientCall::WritesDone() {
  if (stream_ == nullptr) return false;
  stream_->WritesDone(Begin(kWrite));
  return Wait(kWrite);
}

bool ClientCall::Read(grpc::ByteBuffer* message) {
  if (stream_ == nullptr) return false;
  stream_->Read(message, Begin(kRead));
  return Wait(kRead);
}

absl::Status ClientCall::Finish() {
  if (stream_ == nullptr) return refused_;
  finished_ = true;
  grpc::Status status;
  stream_->Finish(&status, Begin(kFinish));
  Wait(kFinish);
  return peer_->Translate(status, channel_.get(), cancelled_ || context_.Cancelled());
}

absl::Status CallUnary(Peer* peer, const char* method, const CallContext& context,
                       const google::protobuf::Message& request, google::protobuf::Message* reply,
                       Peer::Kind kind) {
  ClientCall call(peer, kind, method, context);
  Send(&call, request);
  grpc::ByteBuffer buffer;
  const bool got = call.Read(&buffer);
  if (absl::Status status = call.Finish(); !status.ok()) return status;
  if (!got) return absl::InternalError(absl::StrCat(method, " ended well without a reply"));
  return ReplyFromBuffer(&buffer, reply);
}

}  // namespace msa::rpc
