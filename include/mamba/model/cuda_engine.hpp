// Runs the network on an NVIDIA GPU: every block takes tiles through the whole network and back with activations of its
// own, and adds their gradients to a buffer of its own. Every model's header brings it where nvcc compiles.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include <mamba/core/policies.hpp>
#include <mamba/cuda/kernels.hpp>
#include <mamba/cuda/runtime.hpp>
#include <mamba/model/batch.hpp>
#include <mamba/model/cpu_engine.hpp>
#include <mamba/model/loss.hpp>

namespace mamba {

template <class A>
class Engine<A, Cuda> {
 public:
  using T = typename A::Scalar;
  using Tables = network::Tables<A>;
  using Arena = cuda::Mirrored;

  explicit Engine(const ModelOptions& options)
      : n_layers_(options.n_layers), size_(Tables::size(options.n_layers)), device_(checked_device(options.device)), options_(options) {
    const cuda::OnDevice on(device_);
    for (auto* arena : {&parameters_, &derived_, &gradients_}) arena->emplace(size_ * sizeof(T));
    network::for_each_parameter<A>(n_layers_, [&](PlacedParameter p) { placed_.push_back(std::move(p)); });
    std::vector<cuda::Stretch> trained, rates;
    for (const PlacedParameter& p : placed_)
      for (std::size_t at = 0; at < p.parameter.place(); at += cuda::stretch_elements) {
        const cuda::Stretch stretch{p.offset + at, static_cast<int>(std::min<std::size_t>(cuda::stretch_elements, p.parameter.place() - at))};
        if (p.parameter.trained) trained.push_back(stretch);
        if (p.parameter.derived == Derived::rate) rates.push_back(stretch);
      }
    trained_count_ = static_cast<int>(trained.size()), rates_count_ = static_cast<int>(rates.size());
    trained_.upload(trained.data(), trained.size());
    rates_.upload(rates.data(), rates.size());
    squares_.reserve(trained.size() * sizeof(double));
  }

  const std::vector<PlacedParameter>& placed() const { return placed_; }
  std::size_t size() const { return size_; }
  int n_layers() const { return n_layers_; }

  // Arenas of size() elements, seen from the host. Whoever writes parameters says so afterwards.
  const T* parameters() const { return std::as_const(*parameters_).template as<T>(); }
  T* mutable_parameters() { return parameters_->template as<T>(); }
  T* gradients() { return gradients_->template as<T>(); }
  const T* gradients() const { return std::as_const(*gradients_).template as<T>(); }
  void parameters_changed() { stale_ = true; }
  Arena make_arena() const {
    const cuda::OnDevice on(device_);
    return Arena(size_ * sizeof(T));
  }

  double gradient_norm() {
    const cuda::OnDevice on(device_);
    cuda::sum_squares<<<trained_count_, cuda::Block::threads>>>(squares_.template as<double>(), std::as_const(*gradients_).template on_device<T>(),
                                                                trained_.template as<cuda::Stretch>());
    launched("sum_squares");
    std::vector<double> squares(static_cast<std::size_t>(trained_count_));
    squares_.download(squares.data(), squares.size());
    double sum = 0;
    for (const double square : squares) sum += square;
    return std::sqrt(sum);
  }

  void scale_gradients(double factor) {
    const cuda::OnDevice on(device_);
    cuda::scale<<<trained_count_, cuda::Block::threads>>>(gradients_->template on_device<T>(), static_cast<T>(factor), trained_.template as<cuda::Stretch>());
    launched("scale");
  }

  void adamw(Arena& mean, Arena& square, const math::AdamWStep& step) {
    const cuda::OnDevice on(device_);
    cuda::adamw<<<trained_count_, cuda::Block::threads>>>(parameters_->template on_device<T>(), mean.template on_device<T>(), square.template on_device<T>(),
                                                          std::as_const(*gradients_).template on_device<T>(), step, trained_.template as<cuda::Stretch>());
    launched("adamw");
    stale_ = true;
  }

  std::size_t memory_bytes() const {
    std::size_t sum = parameters_->bytes() + derived_->bytes() + gradients_->bytes();
    for (const auto* buffer : {&workspaces_, &buffers_, &indices_, &places_, &logits_, &shares_, &labels_}) sum += buffer->bytes();
    return sum + (cpu_ ? cpu_->memory_bytes() : 0);
  }

  template <class Use>
  void logits(const Batch& batch, Readout readout, Use&& use, State<A>* state = nullptr) {
    const cuda::OnDevice on(device_);
    const Call call = prepare(batch, readout, false);
    constexpr int stride = padded(network::HeadActivations<A>::Vp);
    logits_.reserve(static_cast<std::size_t>(call.readouts) * stride * sizeof(T));
    cuda::StateArguments<A> states;
    if (state) {
      auto [history, values] = state->buffers();
      history_.upload(history.template as<std::byte>(), history.bytes());
      states_.upload(values.template as<std::byte>(), values.bytes());
      positions_.upload(state->positions().data(), state->positions().size());
      states = {state->from(0), positions_.template as<int>()};
      states.states.history = history_.template as<T>(), states.states.states = states_.template as<T>();
    }
    launch(cuda::forward_tiles<A>, call.blocks, call.arguments, states, logits_.template as<T>());
    launched("forward_tiles");
    std::vector<T> values(static_cast<std::size_t>(call.readouts) * stride);
    logits_.download(values.data(), values.size());
    if (state) {
      auto [history, values_of_state] = state->buffers();
      history_.download(history.template as<std::byte>(), history.bytes());
      states_.download(values_of_state.template as<std::byte>(), values_of_state.bytes());
      for (int s = 0; s < batch.batch; ++s) state->advance(s, batch.length_of(s));
    }
    use(0, Rows<const T, A::config.padded_vocab_size()>{values.data(), call.readouts});
  }

  // gradients <- those of the cross-entropy of the readout rows; returns it.
  double loss_and_gradients(const Batch& batch, Readout readout, const CrossEntropy& loss) {
    const cuda::OnDevice on(device_);
    const Call call = prepare(batch, readout, true);
    labels_.upload(loss.labels, static_cast<std::size_t>(call.readouts));
    CrossEntropy on_device = loss;
    on_device.labels = labels_.template as<int>();
    buffers_.reserve(static_cast<std::size_t>(call.blocks) * size_ * sizeof(T));
    shares_.reserve(static_cast<std::size_t>(call.arguments.tiles) * sizeof(double));
    launch(cuda::train_tiles<A, CrossEntropy>, call.blocks, call.arguments, buffers_.template as<T>(), size_, shares_.template as<double>(), on_device);
    launched("train_tiles");
    const auto quads = static_cast<unsigned>((size_ / 4 + cuda::Block::threads - 1) / cuda::Block::threads);
    T* const gradients = gradients_->template on_device<T>();
    cuda::sum_buffers<<<quads, cuda::Block::threads>>>(gradients, buffers_.template as<T>(), call.blocks, size_);
    launched("sum_buffers");
    cuda::derive_rates_backward<<<rates_count_, cuda::Block::threads>>>(gradients, std::as_const(*derived_).template on_device<T>(),
                                                                        rates_.template as<cuda::Stretch>());
    launched("derive_rates_backward");
    std::vector<double> shares(static_cast<std::size_t>(call.arguments.tiles));
    shares_.download(shares.data(), shares.size());
    double sum = 0;
    for (const double share : shares) sum += share;
    return sum;
  }

  // A loss of the user's own is a host function, and what looks or reaches inside a pass is one too: these run on the CPU,
  // over the same parameters.
  template <class Loss>
  requires(!std::is_same_v<std::remove_cvref_t<Loss>, CrossEntropy>) double loss_and_gradients(const Batch& batch, Readout readout, Loss&& loss) {
    auto& cpu = synchronised_cpu();
    const double sum = cpu.loss_and_gradients(batch, readout, loss);
    std::copy_n(std::as_const(cpu).gradients(), size_, gradients());
    return sum;
  }
  template <class Visitor, class Loss>
  double visited_loss_and_gradients(const Batch& batch, Readout readout, Visitor& visitor, Loss&& loss) {
    auto& cpu = synchronised_cpu();
    const double sum = cpu.visited_loss_and_gradients(batch, readout, visitor, loss);
    std::copy_n(std::as_const(cpu).gradients(), size_, gradients());
    return sum;
  }
  template <Reading reading, class Use>
  void blocked_logits(const Batch& batch, std::span<const std::uint8_t> mask, ChosenLayers layers, Use&& use) {
    synchronised_cpu().template blocked_logits<reading>(batch, mask, layers, use);
  }
  template <class Use>
  void substituted_logits(const Batch& batch, const Batch& reference, std::span<const std::uint8_t> mask, ChosenLayers layers, Use&& use) {
    synchronised_cpu().substituted_logits(batch, reference, mask, layers, use);
  }
  template <class Visitor, class Use>
  void visited_logits(const Batch& batch, Visitor& visitor, Use&& use) {
    synchronised_cpu().visited_logits(batch, visitor, use);
  }

 private:
  using OnCpu = OnBackend<A, Cpu>;
  static constexpr std::size_t shared_bytes = cuda::Block::shared_bytes<T>;

  struct Call {
    cuda::TileArguments<A> arguments;
    int blocks, readouts;
  };

  static int checked_device(int device) {
    const int count = cuda::device_count();
    if (count == 0) fail(ErrorKind::device_failed, "CUDA: no device");
    require(device >= 0 && device < count, "device ", device, " is not in 0..", count - 1);
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    if (properties.major < 8)
      fail(ErrorKind::device_failed, "CUDA: ", properties.name, " has compute capability ", properties.major, ".", properties.minor, "; 8.0 is needed");
    if (properties.sharedMemPerBlockOptin < shared_bytes)
      fail(ErrorKind::device_failed, "CUDA: a block needs ", shared_bytes, " bytes of shared memory; ", properties.name, " has ",
           properties.sharedMemPerBlockOptin);
    return device;
  }

  static void launched(const char* kernel) { cuda::check(cudaGetLastError(), kernel); }

  template <class... Parameters, class... Arguments>
  static void launch(void (*kernel)(Parameters...), int blocks, const Arguments&... arguments) {
    cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), "cudaFuncSetAttribute");
    kernel<<<blocks, cuda::Block::threads, shared_bytes>>>(arguments...);
  }

  // Tiles of 128 tokens, one buffer for each multiprocessor of the largest devices.
  static Partition partition_of(const Batch& batch, std::size_t parameter_bytes) {
    return Partition::of(batch, parameter_bytes, {.tile_tokens = 128, .tiles_per_buffer = 1, .most_buffers = 132, .most_bytes = std::size_t{8} << 30});
  }

  // Uploads the batch, has all memory there.
  Call prepare(const Batch& batch, Readout readout, bool with_backward) {
    if (stale_) {
      cuda::derive_rates<<<rates_count_, cuda::Block::threads>>>(derived_->template on_device<T>(), std::as_const(*parameters_).template on_device<T>(),
                                                                 rates_.template as<cuda::Stretch>());
      launched("derive_rates");
      stale_ = false;
    }
    const Partition partition = partition_of(batch, size_ * sizeof(T));
    places_host_.clear(), firsts_.clear(), tokens_.clear(), readouts_.clear();
    cuda::Requirements requirements;
    network::MixerOf<A>::reserve(requirements, with_backward);
    std::size_t activation_bytes = 0;
    int readout_count = 0;
    for (int i = 0; i < partition.tiles; ++i) {
      const int begin = partition.first_sequence(i), end = partition.first_sequence(i + 1);
      cuda::TilePlace place{
          static_cast<int>(firsts_.size()), end - begin, static_cast<int>(tokens_.size()), static_cast<int>(readouts_.size()), 0, readout_count, begin, 0};
      int row = 0;
      for (int s = begin; s < end; ++s) {
        firsts_.push_back(row);
        const int length = batch.length_of(s);
        tokens_.insert(tokens_.end(), batch.tokens_of(s), batch.tokens_of(s) + length);
        const int from = readout == Readout::last ? length - 1 : 0, to = readout == Readout::predecessors ? length - 1 : length;
        for (int t = from; t < to; ++t) readouts_.push_back(row + t);
        row += length;
      }
      firsts_.push_back(row);
      place.readouts = static_cast<int>(readouts_.size()) - place.readout;
      readout_count += place.readouts;
      if (with_backward) place.boundary_states = network::MixerOf<A>::kept_states(requirements, {firsts_.data() + place.first, place.sequences});
      activation_bytes = std::max(activation_bytes, network::Activations<A>(nullptr, n_layers_, row, place.boundary_states, with_backward).bytes());
      places_host_.push_back(place);
    }
    const int blocks = with_backward ? partition.buffers : std::min(partition.tiles, 264);
    const std::size_t workspace_bytes = (activation_bytes + requirements.global_bytes + 255) / 256 * 256;
    workspaces_.reserve(workspace_bytes * static_cast<std::size_t>(blocks));
    std::vector<int> indices = firsts_;
    indices.insert(indices.end(), tokens_.begin(), tokens_.end());
    indices.insert(indices.end(), readouts_.begin(), readouts_.end());
    indices_.upload(indices.data(), indices.size());
    places_.upload(places_host_.data(), places_host_.size());
    const int* const at = indices_.template as<int>();
    return {{{std::as_const(*parameters_).template on_device<T>(), std::as_const(*derived_).template on_device<T>(), n_layers_},
             places_.template as<cuda::TilePlace>(),
             at,
             at + firsts_.size(),
             at + firsts_.size() + tokens_.size(),
             partition.tiles,
             workspaces_.template as<std::byte>(),
             workspace_bytes,
             activation_bytes},
            blocks,
            readout_count};
  }

  Engine<OnCpu>& synchronised_cpu() {
    if (!cpu_) cpu_ = std::make_unique<Engine<OnCpu>>(options_);
    std::copy_n(parameters(), size_, cpu_->mutable_parameters());
    cpu_->parameters_changed();
    return *cpu_;
  }

  int n_layers_;
  std::size_t size_;
  int device_;
  ModelOptions options_;
  std::vector<PlacedParameter> placed_;
  std::optional<Arena> parameters_, derived_, gradients_;
  cuda::DeviceBuffer trained_, rates_, squares_, workspaces_, buffers_, indices_, places_, logits_, shares_, labels_, history_, states_, positions_;
  int trained_count_ = 0, rates_count_ = 0;
  std::vector<cuda::TilePlace> places_host_;
  std::vector<int> firsts_, tokens_, readouts_;
  std::unique_ptr<Engine<OnCpu>> cpu_;
  bool stale_ = true;
};

}  // namespace mamba
