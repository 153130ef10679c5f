// Reads an artifact's proof.json and checks the files that it names; runs no model.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

#include "digest.hpp"
#include "refused.hpp"

inline constexpr int PROOF_VERSION = 1;
inline constexpr std::uintmax_t MAX_PROOF_BYTES = 64 << 20;

// The digest is of the bytes without it, so nothing is parsed that was not seen whole.
inline void refuse_damage(const std::string& bytes) {
  static const std::regex trailer(
      R"re(,"digest":"([0-9a-f]{32})"\}$)re");  // the last bytes of every proof, also of later ones
  static constexpr size_t size = sizeof(R"(,"digest":""})") - 1 + 32;
  std::smatch match;
  const std::string end = bytes.substr(bytes.size() - std::min(size, bytes.size()));
  if (!std::regex_search(end, match, trailer)) {
    throw Refused("proof.json does not end in its own digest: it was cut off or edited", COPY_AGAIN);
  }
  const std::string found = digest_of(bytes.substr(0, bytes.size() - size) + "}");
  if (found != match[1]) throw Refused(text("proof.json: digest ", found, ", expected ", match[1]), COPY_AGAIN);
}

// What a file is, is looked at before it is opened: a link leads elsewhere, and a pipe has no end.
inline void refuse_irregular(const std::filesystem::path& path) {
  const auto found = std::filesystem::symlink_status(path);
  if (!std::filesystem::exists(found) || std::filesystem::is_regular_file(found)) return;
  const std::string kind = std::filesystem::is_symlink(found) ? "a symbolic link" : "no regular file";
  throw Refused(text(path.filename().string(), ": ", kind), COPY_AGAIN);
}

// The proof of the artifact in `folder`, undamaged and of a version that this program knows.
inline nlohmann::json read_proof(const std::filesystem::path& folder) {
  const auto path = folder / "proof.json";
  refuse_irregular(path);
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw Refused(text("no proof can be read: ", path.string()), "give the folder that `resumable export` wrote");
  if (std::filesystem::file_size(path) > MAX_PROOF_BYTES) {
    throw Refused(text("proof.json has more than the ", MAX_PROOF_BYTES, " bytes allowed"), COPY_AGAIN);
  }
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  refuse_damage(bytes);
  auto proof = nlohmann::json::parse(bytes);
  if (proof.at("proof_version") != PROOF_VERSION) {
    throw Refused(text("proof.json is of version ", proof.at("proof_version"), ", this program reads ", PROOF_VERSION),
                  "take the program of that version");
  }
  if (proof.at("grade").is_null()) {
    throw Refused("this export never came to its end, so nothing is proved", "export again");
  }
  return proof;
}

inline void refuse_other_size(const std::filesystem::path& path, const nlohmann::json& expected) {
  const std::string name = path.filename();
  refuse_irregular(path);
  if (!std::filesystem::exists(path)) throw Refused(text(name, ", named in proof.json, cannot be read: it is missing"), COPY_AGAIN);
  const auto size = std::filesystem::file_size(path);
  if (expected.at("size") != size) {
    throw Refused(text(name, ": ", size, " bytes, expected ", expected.at("size")), COPY_AGAIN);
  }
}

inline void check_digest(const std::filesystem::path& path, const nlohmann::json& expected) {
  const std::string name = path.filename();
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Refused(text(name, ", named in proof.json, cannot be read"), COPY_AGAIN);
  const std::string digest = digest_of(file);
  if (expected.at("digest") != digest) {
    throw Refused(
        text(name, ": digest ", digest, ", expected ", expected.at("digest").get<std::string>(), ": it is damaged"),
        COPY_AGAIN);
  }
}

inline void refuse_unlisted(const nlohmann::json& files, const nlohmann::json& name) {
  if (files.contains(name.get<std::string>())) return;
  throw Refused(text("proof.json uses the file ", name, ", which is not among its files"), "export the artifact again");
}

// Every file that the proof names is there, with the size and the digest that it had when the proof was written.
inline void check_files(const std::filesystem::path& folder, const nlohmann::json& proof) {
  refuse_unlisted(proof.at("files"), proof.at("entry"));
  if (!proof.at("golden").is_null()) refuse_unlisted(proof.at("files"), proof.at("golden").at("file"));
  static const std::regex plain("[A-Za-z0-9][A-Za-z0-9._-]*");  // in this folder itself
  for (const auto& [name, expected] : proof.at("files").items()) {
    if (!std::regex_match(name, plain))
      throw Refused(text("proof.json names the file ", name), "export the artifact again");
    refuse_other_size(folder / name, expected);
  }
  for (const auto& [name, expected] : proof.at("files").items()) check_digest(folder / name, expected);
}
