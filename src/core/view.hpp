// A non-owning, row-major view of a tensor: a pointer that carries its shape.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <span>
#include <type_traits>

namespace freekv {

/// Contiguous in all dimensions: element (i, j, k) of shape [A, B, C] is data[(i*B + j)*C + k].
template <typename T, int N>
class View {
 public:
  View() = default;
  template <typename... Sizes>
  requires(sizeof...(Sizes) == N) explicit View(T* data, Sizes... sizes)
      : data_(data), shape_{static_cast<int64_t>(sizes)...} {}

  /// View<float, N> converts to View<const float, N>.
  operator View<const T, N>() const  // NOLINT(google-explicit-constructor)
      requires(!std::is_const_v<T>) {
    View<const T, N> result;
    result.data_ = data_;
    result.shape_ = shape_;
    return result;
  }

  T* data() const { return data_; }
  int64_t shape(int i) const { return shape_[static_cast<size_t>(i)]; }
  int64_t size() const {
    int64_t n = 1;
    for (int64_t s : shape_) n *= s;
    return n;
  }
  std::span<T> flat() const { return {data_, static_cast<size_t>(size())}; }

  /// The sub-view at index i of the first dimension; for N == 1 the element.
  decltype(auto) operator[](int64_t i) const {
    assert(i >= 0 && i < shape_[0]);
    if constexpr (N == 1) {
      return (data_[i]);
    } else {
      View<T, N - 1> result;
      int64_t stride = 1;
      for (size_t d = 1; d < N; ++d) {
        result.shape_[d - 1] = shape_[d];
        stride *= shape_[d];
      }
      result.data_ = data_ + i * stride;
      return result;
    }
  }

 private:
  template <typename, int>
  friend class View;
  T* data_ = nullptr;
  std::array<int64_t, N> shape_{};
};

}  // namespace freekv
