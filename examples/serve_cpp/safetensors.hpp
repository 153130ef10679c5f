// A reader of safetensors files: a header that is checked, then tensors read one by one; knows of no model.
//
// The format: 8 bytes with the header's length, little-endian; the header, JSON of
// {name: {dtype, shape, data_offsets: [begin, end]}}; then the tensors, little-endian and row-major, without gaps.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "refused.hpp"

static_assert(std::endian::native == std::endian::little, "this reader is for little-endian machines only");

struct Entry {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t begin;  // in bytes, after the header
  uint64_t end;
};

class TensorFile {
 public:
  explicit TensorFile(const std::filesystem::path& path)
      : name_(path.filename()), file_(path, std::ios::binary), total_(std::filesystem::file_size(path)) {
    const auto header = parsed_header();
    for (const auto& [key, value] : header.items()) {
      if (key != "__metadata__") entries_.emplace(key, entry_of(key, value));
    }
    refuse_gaps();
  }

  at::Tensor read(const std::string& key) {
    const auto found = entries_.find(key);
    if (found == entries_.end()) throw damaged(text("it has no tensor ", key));
    const auto& [dtype, shape, begin, end] = found->second;
    auto tensor = at::empty(shape, at::TensorOptions(dtype));
    read_exactly(data_ + begin, static_cast<char*>(tensor.data_ptr()), end - begin);
    return tensor;
  }

 private:
  // As in the format's own library: a damaged length must not allocate terabytes.
  static constexpr uint64_t MAX_HEADER_BYTES = 100'000'000;

  nlohmann::json parsed_header() {
    uint64_t length = 0;
    if (total_ >= 8) read_exactly(0, reinterpret_cast<char*>(&length), 8);
    if (length < 2 || length > MAX_HEADER_BYTES || length > total_ - 8) {
      throw damaged(text("a header of ", length, " bytes cannot be, in a file of ", total_));
    }
    data_ = 8 + length;
    std::string bytes(length, ' ');
    read_exactly(8, bytes.data(), length);
    auto header = nlohmann::json::parse(bytes, nullptr, /*allow_exceptions=*/false);
    if (!header.is_object()) throw damaged("its header is no JSON object");
    return header;
  }

  Entry entry_of(const std::string& key, const nlohmann::json& value) const try {
    const auto offsets = value.at("data_offsets").get<std::array<uint64_t, 2>>();
    Entry entry{dtype_of(value.at("dtype")), {}, offsets[0], offsets[1]};
    uint64_t size = at::elementSize(entry.dtype);
    for (const auto& each : value.at("shape")) {
      if (!each.is_number_unsigned() || __builtin_mul_overflow(size, each.get<uint64_t>(), &size)) {
        throw damaged(text("tensor ", key, " has shape ", value.at("shape"), ", expected sizes"));
      }
      entry.shape.push_back(each.get<int64_t>());
    }
    if (entry.end < entry.begin || size != entry.end - entry.begin) {
      throw damaged(text("tensor ", key, " takes ", size, " bytes, its data_offsets are ", value.at("data_offsets")));
    }
    return entry;
  } catch (const nlohmann::json::exception& error) {
    throw damaged(text("tensor ", key, ": ", error.what()));
  }

  at::ScalarType dtype_of(const std::string& name) const {
    static const std::map<std::string, at::ScalarType> dtypes{
        {"BOOL", at::kBool}, {"U8", at::kByte},  {"I8", at::kChar},   {"I16", at::kShort},  {"I32", at::kInt},
        {"I64", at::kLong},  {"F16", at::kHalf}, {"F32", at::kFloat}, {"F64", at::kDouble}, {"BF16", at::kBFloat16},
    };
    const auto found = dtypes.find(name);
    if (found == dtypes.end()) throw damaged(text("a tensor has dtype ", name, ", which this program does not read"));
    return found->second;
  }

  // Every byte belongs to exactly one tensor: what overlaps or is left over was not written by a sane writer.
  void refuse_gaps() const {
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    for (const auto& [key, entry] : entries_) ranges.emplace_back(entry.begin, entry.end);
    std::sort(ranges.begin(), ranges.end());
    uint64_t reached = 0;
    for (const auto& [begin, end] : ranges) {
      if (begin != reached) throw damaged(text("a tensor begins at byte ", begin, " of the data, expected ", reached));
      reached = end;
    }
    if (data_ + reached != total_) {
      throw damaged(text("its tensors end at byte ", data_ + reached, ", the file at ", total_));
    }
  }

  void read_exactly(uint64_t start, char* target, uint64_t size) {
    file_.seekg(start);
    if (!file_.read(target, size)) throw damaged(text("it ends before byte ", start + size));
  }

  Refused damaged(const std::string& what) const { return {text(name_, ": ", what), COPY_AGAIN}; }

  std::string name_;
  std::ifstream file_;
  uint64_t total_;
  uint64_t data_ = 0;  // where the header ends
  std::map<std::string, Entry> entries_;
};
