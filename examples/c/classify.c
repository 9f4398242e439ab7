/* Runs a model of one input and one output: classify MODEL INPUTS SCORES
 *
 * MODEL is a .tflite file or a .pqz archive of one. INPUTS holds the values of the input, sample
 * behind sample, in the type that the model takes; the outputs go to SCORES in the same way. Fixed
 * batch of 1. To build, from the root of the repository, with LITERT the folder of libLiteRt.so:
 *
 *   g++ -std=c++17 -c -I device examples/c/expand.cc -o expand.o
 *   gcc -std=c11 -c examples/c/classify.c -o classify.o
 *   g++ classify.o expand.o -L LITERT -Wl,-rpath,LITERT -l:libLiteRt.so -lz -o classify
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "expand.h"
#include "litert.h"

static void check(int is_right, const char* what) {
  if (is_right) return;
  fprintf(stderr, "failed: %s\n", what);
  exit(1);
}
#define RUN(call) check((call) == 0, #call)

static unsigned char* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  check(file != NULL, path);
  check(fseek(file, 0, SEEK_END) == 0, path);
  const long end = ftell(file);
  check(end >= 0 && fseek(file, 0, SEEK_SET) == 0, path);
  *size = (size_t)end;
  unsigned char* data = malloc(*size + 1);
  check(data != NULL && fread(data, 1, *size, file) == *size, path);
  fclose(file);
  return data;
}

/* The bytes of a .tflite file, which must outlive the model. */
static unsigned char* read_model(const char* path, size_t* size) {
  unsigned char* data = read_file(path, size);
  if (*size < 4 || memcmp(data, "PQZ", 3) != 0) return data;
  size_t expanded_size = 0;
  unsigned char* expanded = pqz_expand(data, *size, &expanded_size);
  check(expanded != NULL, "the archive is damaged");
  free(data);
  *size = expanded_size;
  return expanded;
}

static LiteRtTensorBuffer make_buffer(LiteRtEnvironment environment, LiteRtTensor tensor,
                                      LiteRtTensorBufferRequirements requirements, size_t* size) {
  LiteRtRankedTensorType type;
  LiteRtTensorBuffer buffer;
  RUN(LiteRtGetRankedTensorType(tensor, &type));
  RUN(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements, &buffer));
  RUN(LiteRtGetTensorBufferPackedSize(buffer, size));
  return buffer;
}

int main(int argc, char** argv) {
  check(argc == 4, "usage: classify MODEL INPUTS SCORES");
  size_t model_size, inputs_size, input_size, output_size;
  unsigned char* content = read_model(argv[1], &model_size);
  unsigned char* samples = read_file(argv[2], &inputs_size);

  LiteRtEnvironment environment;
  LiteRtModel model;
  LiteRtOptions options;
  LiteRtCompiledModel compiled;
  RUN(LiteRtCreateEnvironment(0, NULL, &environment));
  RUN(LiteRtCreateModelFromBuffer(environment, content, model_size, &model));
  RUN(LiteRtCreateOptions(&options));
  RUN(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu));
  RUN(LiteRtCreateCompiledModel(environment, model, options, &compiled));

  LiteRtSignature signature;
  LiteRtTensor tensor;
  LiteRtTensorBufferRequirements needs;
  RUN(LiteRtGetModelSignature(model, 0, &signature));
  RUN(LiteRtGetSignatureInputTensorByIndex(signature, 0, &tensor));
  RUN(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &needs));
  LiteRtTensorBuffer input = make_buffer(environment, tensor, needs, &input_size);
  RUN(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &tensor));
  RUN(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &needs));
  LiteRtTensorBuffer output = make_buffer(environment, tensor, needs, &output_size);
  check(inputs_size % input_size == 0, "the inputs are no whole number of samples");

  FILE* scores = fopen(argv[3], "wb");
  check(scores != NULL, argv[3]);
  for (size_t at = 0; at < inputs_size; at += input_size) {
    void* memory;
    RUN(LiteRtLockTensorBuffer(input, &memory, kLiteRtLockWrite));
    memcpy(memory, samples + at, input_size);
    RUN(LiteRtUnlockTensorBuffer(input));
    RUN(LiteRtRunCompiledModel(compiled, 0, 1, &input, 1, &output));
    RUN(LiteRtLockTensorBuffer(output, &memory, kLiteRtLockRead));
    check(fwrite(memory, 1, output_size, scores) == output_size, argv[3]);
    RUN(LiteRtUnlockTensorBuffer(output));
  }
  check(fclose(scores) == 0, argv[3]);

  LiteRtDestroyTensorBuffer(output);
  LiteRtDestroyTensorBuffer(input);
  LiteRtDestroyCompiledModel(compiled);
  LiteRtDestroyOptions(options);
  LiteRtDestroyModel(model);
  LiteRtDestroyEnvironment(environment);
  free(samples);
  free(content);
  return 0;
}
