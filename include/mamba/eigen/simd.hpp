// A vector of numbers in one register: Eigen's packet for the machine, with operators.
#pragma once

// Eigen's own way with CUDA is not ours: its packets are the host's.
#if defined(__CUDACC__) && !defined(EIGEN_NO_CUDA)
#if defined(EIGEN_WORLD_VERSION)
#error "mamba: where nvcc compiles, define EIGEN_NO_CUDA before Eigen is included first (-DEIGEN_NO_CUDA)"
#endif
#define EIGEN_NO_CUDA
#endif

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/macros.hpp>
#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>

// GCC notes that a template argument such as __m512 has an attribute; that is all a packet type is.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

namespace packet = Eigen::internal;

// Calls f with the constants 0 .. Count-1: the loop is gone before the optimiser starts, and arrays indexed by the
// constants live in registers.
template <int Count, class F>
MAMBA_INLINE constexpr void unroll(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }(std::make_integer_sequence<int, Count>{});
}

inline constexpr int vector_registers = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS;

template <class Packet>
struct Simd {
  using Scalar = typename packet::unpacket_traits<Packet>::type;
  static constexpr int width = packet::unpacket_traits<Packet>::size;

  Packet value;

  Simd() = default;
  MAMBA_INLINE explicit Simd(const Packet& p)
  requires(!std::is_arithmetic_v<Packet>)
      : value(p) {}
  MAMBA_INLINE explicit Simd(double x) : value(packet::pset1<Packet>(static_cast<Scalar>(x))) {}

  // Aligned loads and stores: every row starts at a multiple of 16 elements.
  MAMBA_INLINE static Simd load(const Scalar* p) { return of(packet::pload<Packet>(p)); }
  MAMBA_INLINE static Simd load_unaligned(const Scalar* p) { return of(packet::ploadu<Packet>(p)); }
  // Brain floats are widened when they are loaded and rounded when they are stored, as BFloat16 does it.
  MAMBA_INLINE static Simd load(const BFloat16* p) { return load_unaligned(p); }
  MAMBA_INLINE static Simd load_unaligned(const BFloat16* p)
  requires std::is_same_v<Scalar, float>
  {
#ifdef __AVX512F__
    if constexpr (width == 16)
      return of(_mm512_castsi512_ps(
          _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16)));
#endif
#ifdef __AVX2__
    if constexpr (width == 8)
      return of(_mm256_castsi256_ps(
          _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16)));
#endif
    alignas(Packet) Scalar lanes[width];
    for (int i = 0; i < width; ++i) lanes[i] = p[i];
    return of(packet::pload<Packet>(lanes));
  }
  // Weights of 8 bits, as whole numbers.
  MAMBA_INLINE static Simd load(const std::int8_t* p)
  requires std::is_same_v<Scalar, float>
  {
#ifdef __AVX512F__
    if constexpr (width == 16)
      return of(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
#endif
#ifdef __AVX2__
    if constexpr (width == 8)
      return of(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
#endif
    alignas(Packet) Scalar lanes[width];
    for (int i = 0; i < width; ++i) lanes[i] = p[i];
    return of(packet::pload<Packet>(lanes));
  }
  MAMBA_INLINE static Simd broadcast(Scalar x) { return of(packet::pset1<Packet>(x)); }
  MAMBA_INLINE static Simd zero() { return of(packet::pzero(packet::pset1<Packet>(Scalar(0)))); }
  MAMBA_INLINE void store(Scalar* p) const { packet::pstore<Scalar, Packet>(p, value); }
  MAMBA_INLINE void store(BFloat16* p) const
  requires std::is_same_v<Scalar, float>
  {
#ifdef __AVX512F__
    if constexpr (width == 16) {
      const __m512i x = _mm512_castps_si512(value),
                    odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
      const __m512i rounded =
          _mm512_srli_epi32(_mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
      const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(0x40));
      const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                          _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
      return;
    }
#endif
#ifdef __AVX2__
    if constexpr (width == 8) {
      const __m256i x = _mm256_castps_si256(value), upper = _mm256_srli_epi32(x, 16),
                    odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
      const __m256i rounded =
          _mm256_srli_epi32(_mm256_add_epi32(x, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
      const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
      const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
      const __m256i brains = _mm256_blendv_epi8(rounded, quiet, nan);
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(brains, brains), 0x08);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
      return;
    }
#endif
    alignas(Packet) Scalar lanes[width];
    packet::pstore<Scalar, Packet>(lanes, value);
    for (int i = 0; i < width; ++i) p[i] = lanes[i];
  }
  MAMBA_INLINE Scalar sum() const { return packet::predux(value); }

  MAMBA_INLINE static Simd of(const Packet& p) {
    Simd v;
    v.value = p;
    return v;
  }

  // x, of which the compiler knows nothing: (a + b) - b is not a, whatever it has been told of arithmetic. g++ with
  // such flags is refused (core/requirements.hpp); clang does not say so.
  MAMBA_INLINE static Simd as_written(Simd x) {
#if defined(__clang__) && (defined(__x86_64__) || defined(__aarch64__))
    if constexpr (!std::is_arithmetic_v<Packet>) {
#if defined(__AVX512F__)
      asm("" : "+v"(x.value));
#elif defined(__x86_64__)
      asm("" : "+x"(x.value));
#else
      asm("" : "+w"(x.value));
#endif
    }
#endif
    return x;
  }

  // f for every lane by itself: what Eigen has no packet function for.
  template <class F>
  static Simd each(Simd a, F&& f) {
    Scalar lanes[width];
    packet::pstoreu<Scalar, Packet>(lanes, a.value);
    for (Scalar& x : lanes) x = f(x);
    return load_unaligned(lanes);
  }

  friend MAMBA_INLINE Simd operator+(Simd a, Simd b) { return of(packet::padd(a.value, b.value)); }
  friend MAMBA_INLINE Simd operator-(Simd a, Simd b) { return of(packet::psub(a.value, b.value)); }
  friend MAMBA_INLINE Simd operator*(Simd a, Simd b) { return of(packet::pmul(a.value, b.value)); }
  friend MAMBA_INLINE Simd operator/(Simd a, Simd b) { return of(packet::pdiv(a.value, b.value)); }
  friend MAMBA_INLINE Simd operator-(Simd a) { return of(packet::pnegate(a.value)); }
  // A mask for select.
  friend MAMBA_INLINE Simd operator>(Simd a, Simd b) { return of(packet::pcmp_lt(b.value, a.value)); }

  friend MAMBA_INLINE Simd multiply_add(Simd a, Simd b, Simd c) { return of(packet::pmadd(a.value, b.value, c.value)); }
  friend MAMBA_INLINE Simd select(Simd mask, Simd a, Simd b) {
    return of(packet::pselect(mask.value, a.value, b.value));
  }
  friend MAMBA_INLINE Simd maximum(Simd a, Simd b) { return of(packet::pmax(a.value, b.value)); }
  friend MAMBA_INLINE Simd exp(Simd a) {
    if constexpr (packet::packet_traits<Scalar>::HasExp) return of(packet::pexp(a.value));
    else return each(a, [](Scalar x) { return std::exp(x); });
  }
  friend MAMBA_INLINE Simd log1p(Simd a) {
    if constexpr (packet::packet_traits<Scalar>::HasLog1p) return of(packet::plog1p(a.value));
    else return each(a, [](Scalar x) { return std::log1p(x); });
  }
  friend MAMBA_INLINE Simd tanh(Simd a) {
    if constexpr (packet::packet_traits<Scalar>::HasTanh && !std::is_arithmetic_v<Packet>)
      return of(packet::ptanh(a.value));
    else return each(a, [](Scalar x) { return std::tanh(x); });
  }
  friend MAMBA_INLINE Simd sqrt(Simd a) { return of(packet::psqrt(a.value)); }

  // 2^x for x <= 0; below the smallest normal number the result is about that number. A NaN stays a NaN.
  // In float: x = n + r with |r| <= 1/2, 2^r as a polynomial of degree 6 (minimax with 2^0 = 1, relative error 2.0e-9),
  // 2^n by adding to the exponent's bits. Where 16 numbers fit a register: n in sixteenths, its fraction's power from a
  // table, degree 3 for |r| <= 1/32 (1.6e-9). Within 1.2 units in the last place over the whole range
  // (tests/eigen/simd.cpp measures it and allows 2).
  friend MAMBA_INLINE Simd exp2_nonpositive(Simd x) {
    if constexpr (std::is_arithmetic_v<Packet>) {
      return of(std::exp2(x.value));
    } else if constexpr (!std::is_same_v<Scalar, float>) {
      x = maximum(x, Simd(-1022.0));
      const Simd n = of(packet::print(x.value));
      return of(packet::pldexp(exp((x - n) * Simd(0.693147180559945309)).value, n.value));
#ifdef __AVX512F__
    } else if constexpr (width == 16) {
      x = maximum(x, Simd(-126.0));
      const Simd to_sixteenth(0x1.8p+19);
      const Simd shifted = as_written(x + to_sixteenth);  // 16 n in the low bits
      const Simd n = as_written(shifted - to_sixteenth), r = x - n;
      const Packet powers = _mm512_setr_ps(1.0F, 1.04427373F, 1.09050775F, 1.13878858F, 1.18920708F, 1.24185777F,
                                           1.29683959F, 1.35425556F, 1.41421354F, 1.47682619F, 1.54221082F, 1.61049032F,
                                           1.68179286F, 1.75625217F, 1.8340081F, 1.91520655F);
      const Simd power = of(_mm512_permutexvar_ps(_mm512_castps_si512(shifted.value), powers));
      Simd p(0.05550213649458166);
      p = multiply_add(p, r, Simd(0.2402342880138647));
      p = multiply_add(p, r, Simd(0.6931471826666379));
      return of(_mm512_scalef_ps(multiply_add(power * r, p, power).value, n.value));  // scalef takes n's floor
#endif
    } else {
      x = maximum(x, Simd(-126.0));
      using Integers = typename packet::unpacket_traits<Packet>::integer_packet;
      const Simd to_integer(0x1.8p+23);
      const Simd shifted = as_written(x + to_integer);  // n in the low bits
      const Simd r = x - as_written(shifted - to_integer);
      Simd p(0.00015353361937715863);
      p = multiply_add(p, r, Simd(0.0013398874403796194));
      p = multiply_add(p, r, Simd(0.00961843735747067));
      p = multiply_add(p, r, Simd(0.055503324711583694));
      p = multiply_add(p, r, Simd(0.24022647913631756));
      p = multiply_add(p, r, Simd(0.6931472028550452));
      p = multiply_add(p, r, Simd(1.0));
      const Integers exponent = packet::plogical_shift_left<23>(packet::preinterpret<Integers, Packet>(shifted.value));
      return of(packet::preinterpret<Packet, Integers>(
          packet::padd(packet::preinterpret<Integers, Packet>(p.value), exponent)));
    }
  }
};

namespace detail {

// Halves the packet while the half still holds all columns.
template <class Packet, int Columns>
struct Narrow {
  using Half = typename packet::unpacket_traits<Packet>::half;
  static constexpr int width = packet::unpacket_traits<Packet>::size, half_width = packet::unpacket_traits<Half>::size;
  static constexpr auto choose() {
    if constexpr (half_width < width && half_width >= Columns) return typename Narrow<Half, Columns>::type{};
    else return Simd<Packet>{};
  }
  using type = decltype(choose());
};

}  // namespace detail

// The machine's widest vector, but no wider than it must be for rows of this many columns.
template <class Scalar, int Columns = row_alignment>
using Vector = typename detail::Narrow<typename packet::packet_traits<Scalar>::type, Columns>::type;

// The same code over vectors or single numbers: how to load, store and spread them.
template <class T>
struct Vectors {
  static constexpr bool is_vector = true;
  template <class Stored>
  MAMBA_INLINE static Vector<T> load(const Stored* p) {
    return Vector<T>::load(p);
  }
  MAMBA_INLINE static Vector<T> broadcast(T x) { return Vector<T>::broadcast(x); }
  template <class Stored>
  MAMBA_INLINE static void store(Stored* p, Vector<T> v) {
    v.store(p);
  }
};
template <class T>
struct Numbers {
  static constexpr bool is_vector = false;
  template <class Stored>
  MAMBA_INLINE static T load(const Stored* p) {
    return *p;
  }
  MAMBA_INLINE static T broadcast(T x) { return x; }
  template <class Stored>
  MAMBA_INLINE static void store(Stored* p, T v) {
    *p = v;
  }
};

template <class V>
inline constexpr int vectors_for(int columns) {
  return (columns + V::width - 1) / V::width;
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
