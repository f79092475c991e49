#include <algorithm>
#include <cstdlib>

#include "kernels/cuda/routing_pass.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kMinStages = 2;

struct DeviceTraits {
  int multiprocessors = 0;
  int shared_bytes = 0;  // a block can have
  int major = 0;
};

cudaError_t ReadTraits(DeviceTraits& traits) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto read = [&](cudaDeviceAttr what, int& to) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&to, what, device);
  };
  read(cudaDevAttrMultiProcessorCount, traits.multiprocessors);
  read(cudaDevAttrMaxSharedMemoryPerBlockOptin, traits.shared_bytes);
  read(cudaDevAttrComputeCapabilityMajor, traits.major);
  return error;
}

// Packed queries of this many bytes, at a width of 1,024, leave room for long slices.
constexpr int kLongSlicePackedBytes = 96 * 1024;

constexpr int SliceBytes(KeyFormat format, int pieces, int capacity) {
  return capacity * PackedStepBytes(format, pieces) * (1024 / StepWidth(format)) >
                 kLongSlicePackedBytes
             ? 128
             : 256;
}

int PackedBytes(KeyFormat format, int pieces, int capacity, int width) {
  const int slice = SliceBytes(format, pieces, capacity) / KeyBytes(format);
  const int padded = (width + slice - 1) / slice * slice;
  return padded / StepWidth(format) * capacity * PackedStepBytes(format, pieces);
}

int NumStages(KeyFormat format, int pieces, int capacity, int width, int shared_bytes) {
  const int stage = kTileRows * (SliceBytes(format, pieces, capacity) + 16);
  const int room = shared_bytes - static_cast<int>(sizeof(PassShared)) -
                   PackedBytes(format, pieces, capacity, width);
  return std::min(room / stage, kMaxStages);
}

template <typename Shape>
cudaError_t LaunchShape(PassArgs& args, const DeviceTraits& device, cudaStream_t stream) {
  const auto kernel = RoutingPassKernel<Shape>;
  const int shared_bytes = static_cast<int>(sizeof(PassShared)) + args.packed_bytes +
                           args.num_stages * Shape::kStageBytes;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  // On sm_90 the blocks start, and read keys, while the queries are still being packed.
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(
      std::min<int64_t>(device.multiprocessors, std::max<int64_t>(1, args.num_chunks))));
  config.blockDim = dim3(kPassThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = device.major >= 9 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args);
}

template <KeyFormat kFormat, int kPieces, int kCapacity>
cudaError_t Launch(PassArgs& args, const DeviceTraits& device, cudaStream_t stream) {
  constexpr int kSlice = SliceBytes(kFormat, kPieces, kCapacity);
  const bool bulk =
      device.major >= 9 && args.row_bytes % kSlice == 0 && std::getenv("MSA_BULK") != nullptr;
  return bulk ? LaunchShape<PassShape<kFormat, kPieces, kCapacity, kSlice, true>>(args, device,
                                                                                  stream)
              : LaunchShape<PassShape<kFormat, kPieces, kCapacity, kSlice, false>>(args, device,
                                                                                   stream);
}

template <KeyFormat kFormat, int kPieces, bool kEight>
cudaError_t LaunchCapacity(int capacity, PassArgs& args, const DeviceTraits& device,
                           cudaStream_t stream) {
  if (capacity == 1) return Launch<kFormat, kPieces, 1>(args, device, stream);
  if (capacity == 4) return Launch<kFormat, kPieces, 4>(args, device, stream);
  if constexpr (kEight) {
    if (capacity == 8) return Launch<kFormat, kPieces, 8>(args, device, stream);
  }
  return cudaErrorInvalidValue;
}

// Passes of 64 columns exist where their queries fit beside the stages at a width of 1,024.
bool HasEight(KeyFormat format, int pieces) {
  return format != KeyFormat::kFloat32 && pieces == QueryPieces(format, QueryPrecision::kSingle);
}

}  // namespace

int PassPaddedWidth(KeyFormat format, int width) {
  const int slice = 256 / KeyBytes(format);
  return (width + slice - 1) / slice * slice;
}

int PassCapacity(KeyFormat format, int pieces, int width, int wanted) {
  DeviceTraits device;
  if (ReadTraits(device) != cudaSuccess) return 0;
  int best = 0;
  for (const int capacity : {1, 4, 8}) {
    if (capacity == 8 && !HasEight(format, pieces)) break;
    if (NumStages(format, pieces, capacity, width, device.shared_bytes) < kMinStages) break;
    best = capacity;
    if (capacity >= wanted) break;
  }
  return best;
}

cudaError_t LaunchPass(KeyFormat format, int pieces, int capacity, int width, PassArgs args,
                       cudaStream_t stream) {
  DeviceTraits device;
  const cudaError_t error = ReadTraits(device);
  if (error != cudaSuccess) return error;
  const int slice = SliceBytes(format, pieces, capacity);
  args.row_bytes = width * KeyBytes(format);
  args.num_slices = (args.row_bytes + slice - 1) / slice;
  args.num_stages = NumStages(format, pieces, capacity, width, device.shared_bytes);
  args.packed_bytes = PackedBytes(format, pieces, capacity, width);
  if (args.num_stages < kMinStages) return cudaErrorInvalidValue;
  const bool split = pieces != QueryPieces(format, QueryPrecision::kSingle);
  switch (format) {
    case KeyFormat::kFloat32:
      return LaunchCapacity<KeyFormat::kFloat32, 1, false>(capacity, args, device, stream);
    case KeyFormat::kBFloat16:
      return split ? LaunchCapacity<KeyFormat::kBFloat16, 2, false>(capacity, args, device, stream)
                   : LaunchCapacity<KeyFormat::kBFloat16, 1, true>(capacity, args, device, stream);
    case KeyFormat::kInt8:
      return split ? LaunchCapacity<KeyFormat::kInt8, 3, false>(capacity, args, device, stream)
                   : LaunchCapacity<KeyFormat::kInt8, 2, true>(capacity, args, device, stream);
    case KeyFormat::kFloat8:
      return split ? LaunchCapacity<KeyFormat::kFloat8, 2, false>(capacity, args, device, stream)
                   : LaunchCapacity<KeyFormat::kFloat8, 1, true>(capacity, args, device, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace msa::kernels::cuda
