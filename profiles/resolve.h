/* resolve: built-in data files by abbreviated name. */
#ifndef HLM_PROFILES_RESOLVE_H
#define HLM_PROFILES_RESOLVE_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/err.h"
#include "profiles/builtin.h"

/* The built-in file of `folder` with this exact name, else the only one whose name starts with
 * `name`. HLM_INPUT: an ambiguous prefix lists its matches; an unknown name the nearest and all
 * built-in ones. `what` is how the message calls it ("device"). */
HLM_MUST_CHECK enum hlm_status hlm_resolve_builtin(struct hlm_arena *arena, const char *folder,
                                                   const char *what, const char *name,
                                                   const struct hlm_builtin **out,
                                                   struct hlm_err *err);

/* Whether a text can only mean a path: it has a slash, ends in ".json", or is "-" (stdin). */
bool hlm_resolve_is_path(const char *text);

#endif
