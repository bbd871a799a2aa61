/* builtin: the data files of profiles/{models,devices,clusters}/, embedded in the binary.
 *
 * cmake/embed.cmake generates the table at build time. Files of one folder are adjacent and ascend
 * by name (byte order). A text is the file as it lies in the repository, with a NUL behind it that
 * length does not count, so that it can go straight to hlm_json_read_text.
 */
#ifndef HLM_PROFILES_BUILTIN_H
#define HLM_PROFILES_BUILTIN_H

#include <stddef.h>

struct hlm_builtin {
    const char *folder; /* "models", "devices" or "clusters" */
    const char *name;   /* file name without ".json" */
    const char *text;
    size_t length;
};

/* The file of this folder and exact name, or NULL. */
const struct hlm_builtin *hlm_builtin_find(const char *folder, const char *name);

/* The index-th file (from 0) of a folder in the order of names, or NULL behind the last; a negative
 * index gives NULL. Iterate with index 0, 1, ... until NULL. */
const struct hlm_builtin *hlm_builtin_at(const char *folder, int index);

#endif
