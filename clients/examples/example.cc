// Adds two documents, asks a question, shows what it was answered from, deletes them. README.md
// says how to build it. The server is MSA_SERVER, or 127.0.0.1:7070.
#include <grpcpp/grpcpp.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "msa/v1/router.grpc.pb.h"

namespace {

bool Ok(const std::string& what, const grpc::Status& status) {
  if (!status.ok()) {
    std::cerr << what << ": code " << status.error_code() << ", " << status.error_message() << "\n";
  }
  return status.ok();
}

bool Add(msa::v1::MemoryService::Stub& memory) {
  const std::vector<std::pair<std::string, std::string>> texts = {
      {"tower", "The Mira tower is 412 m high."}, {"bridge", "The Orlan bridge opened in 1931."}};
  grpc::ClientContext context;
  const auto stream = memory.AddDocuments(&context);
  for (const auto& [id, text] :
       texts) {  // two fit on their way; read replies meanwhile to send many
    msa::v1::AddDocumentsRequest request;
    request.mutable_document()->set_id(id);
    request.mutable_document()->set_text(text);
    if (!stream->Write(request)) break;  // Finish says why
  }
  stream->WritesDone();
  msa::v1::AddDocumentsReply reply;
  while (stream->Read(&reply)) {
    std::cout << reply.id();
    if (reply.has_status()) {
      std::cout << " refused: " << reply.status().message() << "\n";
    } else {
      std::cout << ": revision " << reply.result().revision() << "\n";
    }
  }
  return Ok("AddDocuments", stream->Finish());
}

bool Ask(msa::v1::MemoryService::Stub& memory, const std::string& question) {
  msa::v1::GenerateRequest request;
  request.set_question(question);
  grpc::ClientContext context;
  const auto events = memory.Generate(&context, request);
  msa::v1::GenerateEvent event;
  while (events->Read(&event)) {
    if (event.has_text() && !event.text().retrieval())
      std::cout << event.text().text() << std::flush;
    if (!event.has_done()) continue;
    std::cout << "\n" << event.done().finish_reason() << ", from:";
    for (const auto& document : event.done().documents())
      std::cout << " " << document.document_id();
    std::cout << "\n";
  }
  return Ok("Generate", events->Finish());
}

bool Delete(msa::v1::MemoryService::Stub& memory) {
  msa::v1::DeleteDocumentsRequest request;
  request.add_ids("tower");
  request.add_ids("bridge");
  msa::v1::DeleteDocumentsReply reply;
  grpc::ClientContext context;
  if (!Ok("DeleteDocuments", memory.DeleteDocuments(&context, request, &reply))) return false;
  std::cout << "deleted " << reply.results_size() << "\n";
  return true;
}

}  // namespace

int main() {
  const char* server = std::getenv("MSA_SERVER");
  grpc::ChannelArguments limits;
  limits.SetMaxReceiveMessageSize(64 << 20);
  const auto channel = grpc::CreateCustomChannel(server != nullptr ? server : "127.0.0.1:7070",
                                                 grpc::InsecureChannelCredentials(), limits);
  const auto memory = msa::v1::MemoryService::NewStub(channel);
  return Add(*memory) && Ask(*memory, "How high is the Mira tower?") && Delete(*memory) ? 0 : 1;
}
