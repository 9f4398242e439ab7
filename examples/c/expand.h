/* device/pqz.h, which is C++, for programs in C. */
#ifndef TF_PROXQUANT_EXAMPLES_C_EXPAND_H_
#define TF_PROXQUANT_EXAMPLES_C_EXPAND_H_
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
/* The .tflite file of a .pqz archive, for free(); NULL if the archive is damaged. */
unsigned char* pqz_expand(const unsigned char* archive, size_t archive_size, size_t* size);
#ifdef __cplusplus
}
#endif
#endif
