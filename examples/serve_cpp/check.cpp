// `./check DIR`: proves here, without Python, that the AOTInductor package in DIR is the model that was exported.
//
// Exit codes: 0 it is; 1 it is damaged or gives other outputs; 2 this program was not used as it is meant to be.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden.hpp"
#include "proof.hpp"
#include "refused.hpp"
#include "safetensors.hpp"

namespace {

constexpr auto USAGE = "usage: ./check DIR, where `resumable export --format aoti` wrote DIR";

void say(const std::string& what, const std::string& said) {
  std::cout << what << std::string(9 - what.size(), ' ') << said << std::endl;
}

// The package holds machine code: loading it runs it. So its digest was compared first.
std::vector<at::Tensor> outputs_of(const std::filesystem::path& package, const std::vector<at::Tensor>& inputs) try {
  const c10::InferenceMode no_gradients;
  torch::inductor::AOTIModelPackageLoader loader(package);
  return loader.run(inputs);
} catch (const std::exception& error) {
  throw Refused(text("libtorch ", TORCH_VERSION, " does not run ", package.filename().string(), ": ", error.what()),
                "a package is for the torch version and the kind of CPU that it was exported with: export again here");
}

std::string in_words(const Difference& measured) {
  if (measured.identical) return "bit-identical";
  return text("largest difference ", measured.absolute, ", relative ", measured.relative);
}

std::string grade(bool identical, double allowed, const nlohmann::json& golden) {
  const auto batch = text("golden batch of ", golden.at("batch_size"));
  if (identical) return text("outputs-identical (", batch, ")");
  return text("outputs-within-tolerance (", allowed, " absolute, ", batch, ")");
}

void report_source(const nlohmann::json& proof) {
  const auto& source = proof.at("source");
  say("model", text(proof.at("entry").get<std::string>(), ", ", proof.at("format").get<std::string>(), ", from step ",
                    source.at("step"), " of run ", source.at("run_id").get<std::string>()));
  say("proof", text(proof.at("grade").get<std::string>(), " where it was exported; its ", proof.at("files").size(),
                    " files are as they were then"));
}

void check_outputs(const std::filesystem::path& folder, const nlohmann::json& proof) {
  const auto& golden = proof.at("golden");
  TensorFile file(folder / golden.at("file").get<std::string>());
  const auto inputs = read_golden(file, golden.at("inputs"));
  const auto expected = read_golden(file, golden.at("outputs"));
  const auto found = outputs_of(folder / proof.at("entry").get<std::string>(), inputs);
  if (found.size() != expected.size()) {
    throw Refused(text("the model has ", found.size(), " outputs, proof.json names ", expected.size()),
                  "this proof is of another model: export again");
  }
  const double allowed = proof.at("tolerance").is_null() ? 0 : proof.at("tolerance").at("absolute").get<double>();
  bool identical = true;
  for (size_t i = 0; i < found.size(); i++) {
    const auto measured = compare_output(found[i], expected[i], golden.at("outputs")[i], allowed);
    say("output", text(name_of(golden.at("outputs")[i]), ": ", in_words(measured)));
    identical = identical && measured.identical;
  }
  say("here", text(grade(identical, allowed, golden), ", with libtorch ", TORCH_VERSION, ", ", at::get_num_threads(),
                   " threads, ", at::get_cpu_capability()));
}

void check(const std::vector<std::string>& words) {
  if (words.size() != 1 || words[0].starts_with("-")) throw Misused(USAGE, "give one folder");
  const std::filesystem::path folder = words[0];
  const auto proof = read_proof(folder);
  if (proof.at("format") != "aoti") {
    throw Misused(text("this program runs no artifact of format ", proof.at("format")), "export with --format aoti");
  }
  check_files(folder, proof);
  report_source(proof);
  if (proof.at("golden").is_null()) throw Refused("proof.json has no golden input to run", "export with --golden FILE");
  check_outputs(folder, proof);
}

int complain(const std::string& message, const std::string& hint, int code) {
  std::cerr << "check: " << message << "\n  next: " << hint << std::endl;
  return code;
}

}  // namespace

int main(int count, char** words) try {
  check({words + 1, words + count});
  return 0;
} catch (const Misused& error) {
  return complain(error.what(), error.hint, 2);
} catch (const Refused& error) {
  return complain(error.what(), error.hint, 1);
} catch (const nlohmann::json::exception& error) {
  return complain(text("proof.json is not laid out as expected: ", error.what()), "export the artifact again", 1);
} catch (const std::exception& error) {
  return complain(error.what(), COPY_AGAIN, 1);
}
