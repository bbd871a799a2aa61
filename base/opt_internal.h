/* opt_internal: shared by opt.c (parsing) and opt_doc.c (help, man page, Markdown). */
#ifndef HLM_BASE_OPT_INTERNAL_H
#define HLM_BASE_OPT_INTERNAL_H

#include "base/opt.h"

/* Adds what the option accepts: "a whole number in [1, 8]", "one of auto, bf16". */
void hlm_opt_describe(const struct hlm_opt *opt, struct hlm_text *text);

/* The command's rows; a command without a table has none. */
const struct hlm_opt *hlm_opt_rows(const struct hlm_command *command);
const struct hlm_positional *hlm_opt_positionals(const struct hlm_command *command);

#endif
