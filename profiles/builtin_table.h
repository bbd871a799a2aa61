/* builtin_table: the generated rows behind builtin.h; only builtin.c looks at them directly. */
#ifndef HLM_PROFILES_BUILTIN_TABLE_H
#define HLM_PROFILES_BUILTIN_TABLE_H

#include "profiles/builtin.h"

extern const struct hlm_builtin hlm_builtin_table[]; /* ends with a row whose folder is NULL */

#endif
