#include "kernels/cuda/device.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "kernels/cuda/limited_wait.h"

namespace msa::kernels::cuda {
namespace {

// Left to cuBLAS, kernels' code and the driver.
constexpr int64_t kReservedBytes = int64_t{1} << 30;
constexpr int kMinComputeMajor = 8;
// Of the budget, what keys do not get: a full bank must still be asked. At most a 16th.
constexpr int64_t kWorkBytes = int64_t{2} << 30;
// Up to here the driver takes what it copies from the processor at once.
constexpr size_t kTakenAtOnce = size_t{64} << 10;
constexpr size_t kLeastScratch = 256;
constexpr size_t kSpareScratch = 16;  // of a size
constexpr size_t kKeptPointers = size_t{1} << 16;
constexpr int kWaiters = 8;  // at once that need no event made, which a GPU that hangs may not do
// Between two questions whether work is done: a part of the wait so far, up to that.
constexpr int64_t kWaitPerAsk = 128;
constexpr absl::Duration kSleep = absl::Microseconds(100);

// Of a clock that nobody sets: only differences mean something.
absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

// An event behind the work. Who waits sleeps: a pass is long.
class EventMark : public Mark {
 public:
  EventMark(Device& device, cudaStream_t stream) : device_(device) {
    if (device.failed()) return;
    cudaError_t error = cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
    if (error == cudaSuccess) error = cudaEventRecord(event_, stream);
    device_.Check(error, "recording an event");
  }
  ~EventMark() override {
    if (event_ == nullptr || device_.failed()) return;
    device_.Activate();
    cudaEventDestroy(event_);
  }
  void Wait() const override {
    if (event_ != nullptr) device_.Await(event_, /*sleeps=*/true);
  }

 private:
  Device& device_;
  cudaEvent_t event_ = nullptr;
};

// What this thread records, if anything.
thread_local Device::RecordingScope* recording = nullptr;

absl::Status Missing(cudaError_t error, std::string_view what) {
  return absl::FailedPreconditionError(StrCat("the cuda backend cannot start: ", what, " (",
                                              cudaGetErrorString(error),
                                              "); use --backend cpu on this machine"));
}

// Of a GPU that is there.
absl::Status Unusable(cudaError_t error, int gpu, std::string_view what) {
  const std::string named = StrCat("GPU ", gpu, " ", what);
  if (error != cudaErrorMemoryAllocation) return Missing(error, named);
  return absl::ResourceExhaustedError(
      StrCat("the cuda backend cannot start: ", named,
             ", for its memory is taken; nvidia-smi shows by which processes: end one, or name "
             "another GPU (--gpus)"));
}

}  // namespace

absl::Status CheckArchitecture(const std::string& name, int compute_major, int compute_minor) {
  if (compute_major >= kMinComputeMajor) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("the GPU ", name, " has compute capability ", compute_major, ".", compute_minor,
             "; the cuda backend needs 8.0 or later: use --backend cpu"));
}

absl::StatusOr<std::unique_ptr<Device>> Device::Open(const BackendOptions& options) {
  std::unique_ptr<Device> device(new Device());
  MSA_RETURN_IF_ERROR(device->Init(options));
  return device;
}

absl::Status Device::Init(const BackendOptions& options) {
  int count = 0;
  if (cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    return Missing(error, "no NVIDIA driver or no GPU was found");
  }
  if (options.gpu >= count) {
    return absl::FailedPreconditionError(
        StrCat("there is no GPU ", options.gpu, ": this machine has ", count, ", numbered from 0"));
  }
  ordinal_ = options.gpu;
  cudaDeviceProp properties;
  if (cudaError_t error = cudaGetDeviceProperties(&properties, ordinal_); error != cudaSuccess) {
    return Unusable(error, ordinal_, "does not answer");
  }
  name_ = properties.name;
  compute_major_ = properties.major;
  MSA_RETURN_IF_ERROR(CheckArchitecture(name_, properties.major, properties.minor));
  Activate();
  if (cudaError_t error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
      error != cudaSuccess) {
    return Unusable(error, ordinal_, "takes no work");
  }
  for (int i = 0; i < kWaiters; ++i) {
    cudaEvent_t event = nullptr;
    if (cudaError_t error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
        error != cudaSuccess) {
      return Unusable(error, ordinal_, "takes no work");
    }
    absl::MutexLock lock(&mutex_);
    spare_events_.push_back(event);
  }
  // Memory given back stays with the process: a step's activations are taken again at once.
  cudaMemPool_t pool = nullptr;
  uint64_t keep = UINT64_MAX;
  if (cudaDeviceGetDefaultMemPool(&pool, ordinal_) == cudaSuccess) {
    cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep);
  }
  size_t free_bytes = 0, total_bytes = 0;
  if (cudaError_t error = cudaMemGetInfo(&free_bytes, &total_bytes); error != cudaSuccess) {
    return Unusable(error, ordinal_, "does not say what memory it has");
  }
  const auto free = static_cast<int64_t>(free_bytes);
  max_device_bytes_ = options.gpu_memory_bytes > 0 ? std::min(options.gpu_memory_bytes, free)
                                                   : std::max<int64_t>(0, free - kReservedBytes);
  if (options.gpu_memory_bytes > free) {
    Log(LogLevel::kWarning, "the GPU has less memory free than --gpu-memory gives",
        {{"gpu", ordinal_}, {"free", free}, {"given", options.gpu_memory_bytes}});
  }
  max_resident_bytes_ = max_device_bytes_ - std::min(kWorkBytes, max_device_bytes_ / 16);
  max_cache_bytes_ = (max_device_bytes_ + max_resident_bytes_) / 2;
  max_host_bytes_ = options.host_memory_bytes > 0 ? options.host_memory_bytes : INT64_MAX;
  slots_.Init();
  kept_ = std::vector<std::atomic<uintptr_t>>(kKeptPointers);
  return absl::OkStatus();
}

Device::~Device() {
  if (stream_ == nullptr) return;
  Activate();
  tables_.Clear();
  DropSpares();
  Wait();
  if (failed()) return;
  absl::MutexLock lock(&mutex_);
  for (cudaEvent_t event : spare_events_) cudaEventDestroy(event);
  cudaStreamDestroy(stream_);
}

Device::RecordingScope::RecordingScope(const Device& device, cudaStream_t stream)
    : device_(device), stream_(stream) {
  recording = this;
}
Device::RecordingScope::~RecordingScope() { recording = nullptr; }

cudaStream_t Device::stream() const {
  return recording != nullptr && &recording->device_ == this ? recording->stream_ : stream_;
}

void Device::Activate() { cudaSetDevice(ordinal_); }

Buffer Device::Register(void* data, size_t bytes, bool on_device) {
  absl::MutexLock lock(&mutex_);
  buffers_[reinterpret_cast<uintptr_t>(data)] = {.bytes = bytes};
  (on_device ? device_bytes_ : host_bytes_) += static_cast<int64_t>(bytes);
  return Buffer(data, bytes, [this, on_device](void* memory) { Release(memory, on_device); });
}

void Device::Release(void* data, bool on_device) {
  {
    absl::MutexLock lock(&mutex_);
    const auto it = buffers_.find(reinterpret_cast<uintptr_t>(data));
    (on_device ? device_bytes_ : host_bytes_) -= static_cast<int64_t>(it->second.bytes);
    if (it->second.kept) {
      for (std::atomic<uintptr_t>& pointer : kept_) pointer.store(0, std::memory_order_relaxed);
    }
    buffers_.erase(it);
  }
  if (!on_device) Wait();  // kernels may still read it
  if (failed()) return;
  Activate();
  if (on_device) {
    Check(cudaFreeAsync(data, stream_), "cudaFreeAsync");
  } else {
    Check(cudaFreeHost(data), "cudaFreeHost");
  }
}

absl::StatusOr<Buffer> Device::Allocate(size_t bytes, Backend::Purpose purpose) {
  MSA_RETURN_IF_ERROR(health());
  Activate();
  const size_t size = bytes == 0 ? 1 : bytes;
  const int64_t limit = purpose == Backend::Purpose::kWork    ? max_device_bytes_
                        : purpose == Backend::Purpose::kCache ? max_cache_bytes_
                                                              : max_resident_bytes_;
  if (device_bytes() + static_cast<int64_t>(size) <= limit) {
    void* data = nullptr;
    const cudaError_t error = cudaMallocAsync(&data, size, stream_);
    if (error == cudaSuccess) return Register(data, bytes, true);
    MSA_RETURN_IF_ERROR(UnlessFull(error));
  }
  if (purpose != Backend::Purpose::kResident) {
    return absl::ResourceExhaustedError(StrCat(
        "no GPU memory for ", bytes, " bytes, ", device_bytes(), " are in use of ",
        max_device_bytes_, ": answer fewer questions at once or give a larger --gpu-memory"));
  }
  Buffer buffer = AllocatePinned(bytes);
  if (buffer.data() != nullptr) return buffer;
  return absl::ResourceExhaustedError(
      StrCat("no memory for ", bytes, " bytes, neither on the GPU (", device_bytes(), " of ",
             max_device_bytes_, " in use) nor pinned on the host (", host_bytes(),
             " in use): give a larger --gpu-memory or --host-memory, or add a shard"));
}

Buffer Device::AllocatePinned(size_t bytes) {
  const size_t size = std::max<size_t>(bytes, 1);
  void* data = nullptr;
  if (host_bytes() + static_cast<int64_t>(size) > max_host_bytes_ ||
      cudaHostAlloc(&data, size, cudaHostAllocMapped) != cudaSuccess) {
    cudaGetLastError();
    return Buffer();
  }
  Buffer buffer = Register(data, bytes, false);
  bool tell = false;
  {
    absl::MutexLock lock(&mutex_);
    tell = !std::exchange(told_of_host_tier_, true);
  }
  if (tell) {
    Log(LogLevel::kWarning, "the GPU's memory is full: what else needs some goes to the host's",
        {{"gpu_bytes", device_bytes()}, {"gpu_memory", max_device_bytes_}});
  }
  return buffer;
}

absl::Status Device::UnlessFull(cudaError_t error) {
  cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) return absl::OkStatus();
  Check(error, "an allocation");
  return health();
}

absl::StatusOr<Buffer> Device::AllocateScratch(size_t bytes) {
  int size_class = 0;
  size_t room = kLeastScratch;
  while (room < bytes && size_class < kScratchClasses) {
    room *= 2;
    ++size_class;
  }
  const bool pooled = size_class < kScratchClasses;
  if (!pooled) room = bytes;
  const auto release = [this, size_class](void* data) { ReleaseScratch(data, size_class); };
  {
    absl::MutexLock lock(&mutex_);
    MSA_RETURN_IF_ERROR(first_error_);
    if (pooled && !scratch_[size_class].empty()) {
      void* data = scratch_[size_class].back();
      scratch_[size_class].pop_back();
      device_bytes_ += static_cast<int64_t>(room);
      return Buffer(data, bytes, release);
    }
  }
  Activate();
  void* data = nullptr;
  cudaError_t error = cudaMallocAsync(&data, room, stream_);
  if (error == cudaErrorMemoryAllocation && DropSpares()) {
    cudaGetLastError();  // or the next launch would be told of it
    error = cudaMallocAsync(&data, room, stream_);
  }
  if (error != cudaSuccess) {
    MSA_RETURN_IF_ERROR(UnlessFull(error));
    return absl::ResourceExhaustedError(cudaGetErrorString(error));
  }
  if (!pooled) return Register(data, bytes, true);
  absl::MutexLock lock(&mutex_);
  buffers_[reinterpret_cast<uintptr_t>(data)] = {.bytes = room};
  device_bytes_ += static_cast<int64_t>(room);
  return Buffer(data, bytes, release);
}

absl::StatusOr<Buffer> Device::AllocateRoom(size_t bytes) {
  auto scratch = AllocateScratch(bytes);
  // What is recorded keeps its memory: such is not to be slow for ever.
  if (!absl::IsResourceExhausted(scratch.status()) || records()) return scratch;
  Buffer pinned = AllocatePinned(bytes);
  if (pinned.data() == nullptr) return scratch;
  return pinned;
}

bool Device::DropSpares() {
  std::vector<void*> spares;
  {
    absl::MutexLock lock(&mutex_);
    for (int size_class = 0; size_class < kScratchClasses; ++size_class) {
      std::vector<void*>& of_size = scratch_[size_class];
      device_bytes_ += static_cast<int64_t>(of_size.size() * (kLeastScratch << size_class));
      spares.insert(spares.end(), of_size.begin(), of_size.end());
      of_size.clear();
    }
  }
  for (void* data : spares) Release(data, true);
  return !spares.empty();
}

void Device::ReleaseScratch(void* data, int size_class) {
  {
    absl::MutexLock lock(&mutex_);
    if (scratch_[size_class].size() < kSpareScratch) {
      scratch_[size_class].push_back(data);
      device_bytes_ -= static_cast<int64_t>(kLeastScratch << size_class);
      return;
    }
  }
  Release(data, true);
}

absl::StatusOr<KeptTables::Table> Device::KeepTable(const void* table, size_t bytes) {
  const auto copy = [this](std::string_view content) -> absl::StatusOr<Buffer> {
    MSA_ASSIGN_OR_RETURN(Buffer buffer, AllocateRoom(content.size()));
    Copy(buffer.data(), content.data(), content.size());
    return buffer;
  };
  return tables_.Find({static_cast<const char*>(table), bytes}, copy);
}

bool Device::Reaches(const void* pointer) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  absl::ReaderMutexLock lock(&mutex_);
  auto it = buffers_.upper_bound(address);
  if (it == buffers_.begin()) return false;
  --it;
  return address < it->first + std::max(it->second.bytes, size_t{1});
}

std::atomic<uintptr_t>& Device::KeptEntry(uintptr_t address) {
  return kept_[(address >> 4) * 0x9E3779B97F4A7C15u >> 48];
}

bool Device::ReachesKept(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  std::atomic<uintptr_t>& entry = KeptEntry(address);
  if (address != 0 && entry.load(std::memory_order_relaxed) == address) return true;
  absl::MutexLock lock(&mutex_);
  auto it = buffers_.upper_bound(address);
  if (it == buffers_.begin()) return false;
  --it;
  if (address >= it->first + std::max(it->second.bytes, size_t{1})) return false;
  it->second.kept = true;
  entry.store(address, std::memory_order_relaxed);
  return true;
}

void Device::Copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0 || failed()) return;
  Activate();
  const bool to_device = Reaches(to);
  if (bytes <= PinnedSlots::kSlotBytes && Reaches(from) != to_device) {
    if (to_device ? CopyIn(to, from, bytes) : CopyOut(to, from, bytes)) return;
  }
  // The driver would wait for the work before, without a limit.
  if (!to_device) Wait();
  if (failed()) return;
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "a copy");
  if (!to_device) Wait();
}

bool Device::CopyIn(void* to, const void* from, size_t bytes) {
  PinnedSlots::Slot* slot = bytes > kTakenAtOnce ? slots_.Take() : nullptr;
  if (slot == nullptr) return false;
  std::memcpy(slot->data, from, bytes);
  Check(cudaMemcpyAsync(to, slot->data, bytes, cudaMemcpyDefault, stream_), "a copy");
  Check(cudaEventRecord(slot->done, stream_), "recording an event");
  slots_.Give(slot);
  return true;
}

bool Device::CopyOut(void* to, const void* from, size_t bytes) {
  PinnedSlots::Slot* slot = slots_.Take();
  if (slot == nullptr) return false;
  Check(cudaMemcpyAsync(slot->data, from, bytes, cudaMemcpyDefault, stream_), "a copy");
  Check(cudaEventRecord(slot->done, stream_), "recording an event");
  if (Await(slot->done)) std::memcpy(to, slot->data, bytes);
  slots_.Give(slot);
  return true;
}

Buffer Device::StartFetch(const void* from, size_t bytes) {
  if (failed()) return Buffer();
  Activate();
  Buffer to = landings_.Take(bytes);
  if (to.data() == nullptr) return to;
  Check(cudaMemcpyAsync(to.data(), from, bytes, cudaMemcpyDefault, stream_), "a copy");
  return to;
}

std::unique_ptr<Mark> Device::MakeMark() {
  Activate();
  return std::make_unique<EventMark>(*this, stream_);
}

void Device::Wait() {
  if (failed()) return;
  cudaEvent_t event = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (!spare_events_.empty()) {
      event = spare_events_.back();
      spare_events_.pop_back();
    }
  }
  Activate();
  cudaError_t error = cudaSuccess;
  if (event == nullptr) error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  if (error == cudaSuccess) error = cudaEventRecord(event, stream_);
  Check(error, "recording an event");
  if (error == cudaSuccess) Await(event);
  if (event == nullptr) return;
  absl::MutexLock lock(&mutex_);
  spare_events_.push_back(event);
}

bool Device::Await(cudaEvent_t event, bool sleeps) {
  cudaError_t state = cudaSuccess;
  const auto done = [&] {
    state = cudaEventQuery(event);
    return state != cudaErrorNotReady;
  };
  // Asking takes a lock of the driver's, which threads that start work need: the longer the wait so
  // far, the less often.
  const absl::Time begun = SteadyNow();
  const auto pause = [&] {
    const absl::Time now = SteadyNow();
    if (sleeps || now - begun > kWaitPerAsk * kSleep) return absl::SleepFor(kSleep);
    for (const absl::Time next = now + (now - begun) / kWaitPerAsk; SteadyNow() < next;) {
    }
  };
  Activate();
  const Waited waited = AwaitWithin(
      kHangLimit, done, [this] { return failed(); }, pause, SteadyNow);
  cudaGetLastError();  // that it was not ready is no error
  if (waited == Waited::kLate) {
    Fail(StrCat("did not end its work in ", absl::FormatDuration(kHangLimit)));
  }
  if (waited != Waited::kDone) return false;
  Check(state, "waiting for the GPU");
  return state == cudaSuccess;
}

void Device::Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  if (recording != nullptr && &recording->device_ == this) {
    if (recording->error_ == cudaSuccess) recording->error_ = error;
    return;
  }
  Fail(StrCat("failed in ", what, ": ", cudaGetErrorString(error)));
}

void Device::Fail(std::string_view why) {
  absl::MutexLock lock(&mutex_);
  if (!first_error_.ok()) return;
  first_error_ =
      absl::UnavailableError(StrCat("GPU ", ordinal_, " (", name_, ") ", why,
                                    "; this process cannot use it any more: restart it"));
  failed_ = true;
  Log(LogLevel::kError, std::string(first_error_.message()), {});
}

absl::Status Device::health() const {
  absl::ReaderMutexLock lock(&mutex_);
  return first_error_;
}

int64_t Device::device_bytes() const {
  absl::ReaderMutexLock lock(&mutex_);
  return device_bytes_;
}

int64_t Device::host_bytes() const {
  absl::ReaderMutexLock lock(&mutex_);
  return host_bytes_;
}

}  // namespace msa::kernels::cuda
