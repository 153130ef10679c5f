// XXH3-128 of bytes and of files: finds damage, proves nothing against a forger.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

inline std::string in_digits(XXH128_hash_t hash) {
  std::array<char, 33> digits;
  std::snprintf(digits.data(), digits.size(), "%016llx%016llx", (unsigned long long)hash.high64,
                (unsigned long long)hash.low64);
  return digits.data();
}

inline std::string digest_of(std::string_view bytes) { return in_digits(XXH3_128bits(bytes.data(), bytes.size())); }

// Of all that is left in `file`, a piece at a time.
inline std::string digest_of(std::ifstream& file) {
  XXH3_state_t state{};
  XXH3_128bits_reset(&state);
  std::vector<char> piece(1 << 24);
  while (file.read(piece.data(), piece.size()), file.gcount() > 0) {
    XXH3_128bits_update(&state, piece.data(), file.gcount());
  }
  return in_digits(XXH3_128bits_digest(&state));
}
