/* file: whole files in and out. The only place (with the launcher's pipes) that opens files. */
#ifndef HLM_BASE_FILE_H
#define HLM_BASE_FILE_H

#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"

/* Reads a whole file ("-": stdin) and terminates it with a NUL that is not counted. HLM_INPUT:
 * cannot open, is a directory, or is larger than max_bytes. */
HLM_MUST_CHECK enum hlm_status hlm_file_read(struct hlm_arena *arena, const char *path,
                                             size_t max_bytes, const char **out_text,
                                             size_t *out_length, struct hlm_err *err);

/* Writes to a temporary name in the same folder, syncs and renames, so that the path holds either
 * the old or the whole new content ("-": stdout, directly). A failed write (full disk) removes the
 * temporary file and is HLM_FAILED; a folder that does not exist is HLM_INPUT. */
HLM_MUST_CHECK enum hlm_status hlm_file_write(const char *path, const char *text, size_t length,
                                              struct hlm_err *err);

/* Makes a folder and its parents, like mkdir -p. */
HLM_MUST_CHECK enum hlm_status hlm_file_make_folder(const char *path, struct hlm_err *err);

#endif
