// The golden input and what the live model gave for it, against what a runtime gives for it here.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/ScalarType.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "refused.hpp"
#include "safetensors.hpp"

struct Difference {
  bool identical;   // bit for bit
  double absolute;  // the largest
  double relative;  // the same, to the largest number that was expected
};

// Refuses a tensor of another dtype or shape than the proof names.
inline void refuse_other_kind(const std::string& what, const at::Tensor& tensor, const nlohmann::json& expected,
                              const std::string& hint) {
  const auto kind = [](std::string_view dtype, const nlohmann::json& shape) { return text(dtype, " ", shape.dump()); };
  const auto found = kind(c10::getDtypeNames(tensor.scalar_type()).first, tensor.sizes().vec());
  const auto wanted = kind(expected.at("dtype").get<std::string>(), expected.at("shape"));
  if (found != wanted) throw Refused(text(what, " is ", found, ", expected ", wanted), hint);
}

inline std::string name_of(const nlohmann::json& named) {
  return named.at(named.at("name").is_null() ? "key" : "name");
}

// The tensors of golden.safetensors that `named` lists, in its order, dtypes and shapes.
inline std::vector<at::Tensor> read_golden(TensorFile& file, const nlohmann::json& named) {
  std::vector<at::Tensor> tensors;
  for (const auto& expected : named) {
    const auto key = expected.at("key").get<std::string>();
    tensors.push_back(file.read(key));
    refuse_other_kind(text("golden.safetensors: ", key), tensors.back(), expected, COPY_AGAIN);
  }
  return tensors;
}

// How far two tensors of one dtype and shape lie apart. A NaN equals a NaN; anything else beside a NaN, or beside an
// infinity, is infinitely far away.
inline Difference difference(const at::Tensor& found, const at::Tensor& expected) {
  const auto ours = found.contiguous();
  if (ours.numel() == 0) return {true, 0, 0};
  const bool identical = std::memcmp(ours.data_ptr(), expected.data_ptr(), ours.nbytes()) == 0;
  // Integers as such: two large ones may be one double.
  const auto wide = at::isIntegralType(ours.scalar_type(), /*includeBool=*/true) ? at::kLong : at::kDouble;
  const auto a = ours.to(wide), b = expected.to(wide);
  auto apart = (a - b).abs().to(at::kDouble);
  apart.masked_fill_(apart.isnan(), std::numeric_limits<double>::infinity());
  apart.masked_fill_((a == b) | (a.isnan() & b.isnan()), 0);
  const double absolute = apart.max().item<double>();
  const double largest = at::nan_to_num(b.abs().to(at::kDouble), 0, 0).max().item<double>();
  return {identical, absolute, absolute == 0 ? 0 : absolute / largest};
}

// The difference of one output; refuses one that is larger than the proof allows.
inline Difference compare_output(const at::Tensor& found, const at::Tensor& golden, const nlohmann::json& expected,
                                 double allowed) {
  const auto output = text("output ", name_of(expected));
  refuse_other_kind(output, found, expected, "this proof is of another model: export again");
  const auto measured = difference(found, golden);
  if (measured.absolute <= allowed) return measured;
  throw Refused(
      text(output, " is not that of the live model: largest difference ", measured.absolute, ", allowed ", allowed),
      "do not serve this model here; export again, or state a larger --tolerance if that is good enough");
}
