// What a check that failed says; knows of no artifact.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

inline const std::string COPY_AGAIN = "copy the artifact's folder here again, or export it again";

// All parts one after the other, as a stream prints them.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// A damaged or different artifact: `what()` says what, where, expected and found, `hint` the next thing to do.
struct Refused : std::runtime_error {
  std::string hint;
  Refused(const std::string& message, std::string next) : std::runtime_error(message), hint(std::move(next)) {}
};

// This program was asked for something that it does not do.
struct Misused : Refused {
  using Refused::Refused;
};
