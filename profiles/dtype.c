#include "profiles/dtype.h"

#include <stddef.h>

#include "base/err.h"

const char *const hlm_dtype_texts[] = {
#define X(name, text, bytes) text,
    HLM_DTYPE_MAP(X)
#undef X
        NULL,
};

double hlm_dtype_bytes(enum hlm_dtype dtype)
{
    static const double bytes_per_element[HLM_NUM_DTYPES] = {
#define X(name, text, bytes) bytes,
        HLM_DTYPE_MAP(X)
#undef X
    };
    HLM_ASSERT((int)dtype >= 0 && dtype < HLM_NUM_DTYPES);
    return bytes_per_element[dtype];
}

enum hlm_dtype hlm_dtype_storage(enum hlm_dtype dtype)
{
    return hlm_dtype_bytes(dtype) < hlm_dtype_bytes(HLM_DTYPE_BF16) ? HLM_DTYPE_BF16 : dtype;
}
