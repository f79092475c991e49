// What files of TLS held when they were last in order, for gRPC to watch: it takes a certificate
// and a key as it finds them, and while a renewal has written one of the two every handshake fails.
#ifndef MSA_RPC_TLS_STAGE_H_
#define MSA_RPC_TLS_STAGE_H_

#include <string>

#include "absl/status/status.h"
#include "rpc/tls.h"

namespace msa::rpc {

// In memory, as files that only this process can open: keys get on no disk. Not thread-safe.
class TlsStage {
 public:
  // The files themselves where there is no such memory, with a warning. Looks at them.
  explicit TlsStage(TlsFiles files);
  ~TlsStage();
  TlsStage(const TlsStage&) = delete;
  TlsStage& operator=(const TlsStage&) = delete;

  // Where it is. Certificate and key are one file, changed in one step.
  const TlsFiles& staged() const { return staged_; }

  // Takes over what the files hold now if it is in order, else keeps what there is and gives what
  // ReadTls says. A line in the log when either is news.
  absl::Status Look();

 private:
  TlsFiles files_;
  TlsFiles staged_;
  int ca_ = -1;  // descriptors; none: not named, or the files themselves are watched
  int pair_ = -1;
  TlsText text_;
  std::string complaint_;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_TLS_STAGE_H_
