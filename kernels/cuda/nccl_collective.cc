#include "kernels/cuda/nccl_collective.h"

#include <dlfcn.h>
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "kernels/best_lists.h"

namespace msa::kernels::cuda {
namespace {

constexpr absl::Duration kAbortTimeout = absl::Seconds(5);
// Between looks at what costs more than an event.
constexpr absl::Duration kLookEvery = absl::Milliseconds(2);

// The functions used, of a library that stays open.
struct Nccl {
  decltype(&ncclCommInitAll) CommInitAll = nullptr;
  decltype(&ncclCommDestroy) CommDestroy = nullptr;
  decltype(&ncclCommAbort) CommAbort = nullptr;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError = nullptr;
  decltype(&ncclGroupStart) GroupStart = nullptr;
  decltype(&ncclGroupEnd) GroupEnd = nullptr;
  decltype(&ncclAllGather) AllGather = nullptr;
  decltype(&ncclGetErrorString) GetErrorString = nullptr;
};

absl::StatusOr<Nccl> OpenNccl() {
  void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        StrCat("several GPUs need NCCL: ", dlerror(),
               "; install libnccl2, put libnccl.so.2 beside this program's libraries, or use one "
               "GPU"));
  }
  Nccl nccl;
  bool complete = true;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    complete = complete && function != nullptr;
  };
  find(nccl.CommInitAll, "ncclCommInitAll");
  find(nccl.CommDestroy, "ncclCommDestroy");
  find(nccl.CommAbort, "ncclCommAbort");
  find(nccl.CommGetAsyncError, "ncclCommGetAsyncError");
  find(nccl.GroupStart, "ncclGroupStart");
  find(nccl.GroupEnd, "ncclGroupEnd");
  find(nccl.AllGather, "ncclAllGather");
  find(nccl.GetErrorString, "ncclGetErrorString");
  if (!complete) return absl::FailedPreconditionError("libnccl.so.2 is too old: 2.4 or later");
  return nccl;
}

// On a thread of its own, so that a library that hangs does not take the caller with it; `work`
// must own what it uses. Notified when it has ended, or cannot begin for want of a thread.
std::shared_ptr<absl::Notification> RunApart(std::function<void()> work) {
  auto done = std::make_shared<absl::Notification>();
  try {
    std::thread([done, work = std::move(work)] {
      work();
      done->Notify();
    }).detach();
  } catch (const std::system_error&) {
    done->Notify();
  }
  return done;
}

// Where a gather's result arrives, and the event that says so. Used by one gather at a time.
struct Arrival {
  void* host = nullptr;  // pinned
  size_t bytes = 0;
  cudaEvent_t event = nullptr;
};

class NcclCollective : public Collective {
 public:
  NcclCollective(const Nccl& nccl, std::vector<Device*> devices, std::vector<ncclComm_t> comms,
                 const NcclOptions& options)
      : nccl_(nccl), devices_(std::move(devices)), options_(options), comms_(std::move(comms)) {}

  ~NcclCollective() override {
    for (Device* device : devices_) device->Wait();  // here, with a limit, not in the library
    absl::MutexLock lock(&mutex_);
    const bool failed = std::any_of(devices_.begin(), devices_.end(),
                                    [](const Device* device) { return device->failed(); });
    if (error_.ok() && !failed) {
      for (ncclComm_t comm : comms_) nccl_.CommDestroy(comm);
    }
    // What an abort works on goes with the devices.
    const absl::Time until = absl::Now() + kAbortTimeout;
    for (const auto& done : aborts_) done->WaitForNotificationWithDeadline(until);
    if (failed) return;
    devices_[0]->Activate();
    for (const Arrival& arrival : free_) {
      cudaEventDestroy(arrival.event);
      cudaFreeHost(arrival.host);
    }
  }

  absl::Status Health() const override {
    absl::MutexLock lock(&mutex_);
    return error_;
  }

  absl::Status AllGather(absl::Span<const void* const> from, size_t bytes, void* out) override {
    const absl::Status status = Gather(from, bytes, out);
    if (!absl::IsUnavailable(status)) return status;
    absl::MutexLock lock(&mutex_);
    return Break(std::string(status.message()));  // a GPU that failed answers nobody any more
  }

 private:
  absl::Status Gather(absl::Span<const void* const> from, size_t bytes, void* out) {
    const size_t all_bytes = bytes * devices_.size();
    MSA_ASSIGN_OR_RETURN(Arrival arrival, TakeArrival(all_bytes));
    std::vector<Buffer> to;
    for (Device* device : devices_) {
      auto buffer = device->AllocateScratch(all_bytes);
      if (!buffer.ok()) {  // nothing is on its way yet
        absl::MutexLock lock(&mutex_);
        free_.push_back(arrival);
        return buffer.status();
      }
      to.push_back(*std::move(buffer));
    }
    const absl::Time deadline = absl::Now() + options_.timeout;
    MSA_RETURN_IF_ERROR(Enqueue(from, bytes, to, arrival));
    MSA_RETURN_IF_ERROR(Await(arrival, deadline));
    std::memcpy(out, arrival.host, all_bytes);
    absl::MutexLock lock(&mutex_);
    free_.push_back(arrival);
    return absl::OkStatus();
  }

  // Arrivals of gathers that failed are not given back: a copy may still be on its way.
  absl::StatusOr<Arrival> TakeArrival(size_t bytes) {
    {
      absl::MutexLock lock(&mutex_);
      MSA_RETURN_IF_ERROR(error_);
      if (!free_.empty() && free_.back().bytes >= bytes) {
        const Arrival arrival = free_.back();
        free_.pop_back();
        return arrival;
      }
    }
    // One size for all lists: any that is free will do.
    Arrival arrival;
    arrival.bytes = std::max(bytes, devices_.size() * ListBestBytes(kMostListed));
    devices_[0]->Activate();
    cudaError_t error = cudaHostAlloc(&arrival.host, arrival.bytes, cudaHostAllocDefault);
    if (error == cudaSuccess) {
      error = cudaEventCreateWithFlags(&arrival.event, cudaEventDisableTiming);
    }
    if (error != cudaSuccess) {
      if (arrival.host != nullptr) cudaFreeHost(arrival.host);
      MSA_RETURN_IF_ERROR(devices_[0]->UnlessFull(error));
      return absl::ResourceExhaustedError("no pinned memory for what several GPUs found");
    }
    return arrival;
  }

  // In one order on every GPU, whichever threads ask.
  absl::Status Enqueue(absl::Span<const void* const> from, size_t bytes,
                       const std::vector<Buffer>& to, const Arrival& arrival) {
    absl::MutexLock lock(&mutex_);
    MSA_RETURN_IF_ERROR(error_);
    ncclResult_t result = nccl_.GroupStart();
    for (size_t m = 0; m < devices_.size() && result == ncclSuccess; ++m) {
      result =
          nccl_.AllGather(from[m], to[m].data(), bytes, ncclInt8, comms_[m], devices_[m]->stream());
    }
    const ncclResult_t ended = nccl_.GroupEnd();
    if (result == ncclSuccess) result = ended;
    if (result != ncclSuccess) return Break(StrCat("NCCL: ", nccl_.GetErrorString(result)));
    devices_[0]->Activate();
    devices_[0]->Check(cudaMemcpyAsync(arrival.host, to[0].data(), bytes * devices_.size(),
                                       cudaMemcpyDeviceToHost, devices_[0]->stream()),
                       "fetching what several GPUs found");
    devices_[0]->Check(cudaEventRecord(arrival.event, devices_[0]->stream()), "recording an event");
    return devices_[0]->health();
  }

  absl::Status Await(const Arrival& arrival, absl::Time deadline) {
    absl::Time look_next = absl::Now() + kLookEvery;
    while (true) {
      const cudaError_t state = cudaEventQuery(arrival.event);
      if (state == cudaSuccess) return Health();
      const absl::Time now = absl::Now();
      absl::Status status;
      if (state != cudaErrorNotReady) {
        devices_[0]->Check(state, "gathering from several GPUs");
        status = devices_[0]->health();
      } else if (now >= deadline) {
        status = absl::UnavailableError(StrCat("a GPU did not answer the others within ",
                                               absl::FormatDuration(options_.timeout)));
      } else if (now >= look_next) {
        look_next = now + kLookEvery;
        status = Look();
      }
      MSA_RETURN_IF_ERROR(status);
      std::this_thread::yield();
    }
  }

  // Whether a member failed, or another gather gave up.
  absl::Status Look() {
    absl::MutexLock lock(&mutex_);
    MSA_RETURN_IF_ERROR(error_);
    for (size_t m = 0; m < devices_.size(); ++m) {
      const cudaError_t state = cudaStreamQuery(devices_[m]->stream());
      if (state != cudaSuccess && state != cudaErrorNotReady) {
        devices_[m]->Check(state, "gathering from several GPUs");
      }
      MSA_RETURN_IF_ERROR(devices_[m]->health());
      ncclResult_t result = ncclSuccess;
      nccl_.CommGetAsyncError(comms_[m], &result);
      if (result != ncclSuccess) {
        return absl::UnavailableError(StrCat("NCCL: ", nccl_.GetErrorString(result)));
      }
    }
    return absl::OkStatus();
  }

  // Ends what the GPUs wait for, for good. A GPU that hangs keeps its abort waiting, too: nobody
  // waits for that but the destructor.
  absl::Status Break(std::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!error_.ok()) return error_;
    error_ = absl::UnavailableError(
        StrCat(why, "; the GPUs of this process cannot work together any more: restart it"));
    Log(LogLevel::kError, std::string(error_.message()), {});
    // Which of them hangs cannot be told; the abort of that one keeps its driver.
    for (Device* device : devices_) {
      device->Fail(StrCat("is one of several that cannot work together: ", why));
    }
    for (ncclComm_t comm : comms_) {
      aborts_.push_back(RunApart([abort = nccl_.CommAbort, comm] { abort(comm); }));
    }
    return error_;
  }

  const Nccl nccl_;
  const std::vector<Device*> devices_;
  const NcclOptions options_;
  mutable absl::Mutex mutex_;
  const std::vector<ncclComm_t> comms_;  // aborted once error_ is set
  std::vector<std::shared_ptr<absl::Notification>> aborts_ ABSL_GUARDED_BY(mutex_);
  std::vector<Arrival> free_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> MakeNcclCollective(std::vector<Device*> devices,
                                                               const NcclOptions& options) {
  MSA_ASSIGN_OR_RETURN(const Nccl nccl, OpenNccl());
  struct Start {
    std::vector<int> ordinals;
    std::vector<ncclComm_t> comms;
    ncclResult_t result = ncclInternalError;
  };
  auto start = std::make_shared<Start>();
  for (const Device* device : devices) start->ordinals.push_back(device->ordinal());
  start->comms.resize(devices.size());
  const auto done = RunApart([start, init = nccl.CommInitAll] {
    start->result =
        init(start->comms.data(), static_cast<int>(start->comms.size()), start->ordinals.data());
  });
  const bool ended = done->WaitForNotificationWithTimeout(options.start_timeout);
  if (!ended || start->result != ncclSuccess) {
    return absl::FailedPreconditionError(
        StrCat("NCCL does not start on these GPUs: ",
               ended ? nccl.GetErrorString(start->result) : "it did not end in time",
               "; NCCL_DEBUG=INFO tells more"));
  }
  return std::make_unique<NcclCollective>(nccl, std::move(devices), start->comms, options);
}

}  // namespace msa::kernels::cuda
