#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_standard(const char *path)
{
    return strcmp(path, "-") == 0;
}

/* Fills `text` from the descriptor; errno is set on failure. *out_too_large: there was more. */
static bool read_all(int fd, size_t max_bytes, struct hlm_text *text, bool *out_too_large)
{
    char chunk[1 << 16];
    for (;;) {
        const ssize_t got = read(fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got == 0;
        }
        if ((size_t)got > max_bytes - text->length) {
            *out_too_large = true;
            return true;
        }
        hlm_text_add(text, chunk, (size_t)got);
    }
}

enum hlm_status hlm_file_read(struct hlm_arena *arena, const char *path, size_t max_bytes,
                              const char **out_text, size_t *out_length, struct hlm_err *err)
{
    const bool standard = is_standard(path);
    const char *name = standard ? "stdin" : path;
    const int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return hlm_fail(err, HLM_INPUT, "cannot open %s: %s", name, strerror(errno));
    }
    struct hlm_text text;
    hlm_text_init(&text, arena);
    bool too_large = false;
    const bool done = read_all(fd, max_bytes, &text, &too_large);
    const int reason = errno;
    if (!standard) {
        close(fd);
    }
    if (!done) {
        return hlm_fail(err, HLM_INPUT, "cannot read %s: %s", name, strerror(reason));
    }
    if (too_large) {
        return hlm_fail(err, HLM_INPUT, "%s: expected at most %zu bytes, found more", name,
                        max_bytes);
    }
    *out_text = text.text;
    *out_length = text.length;
    return HLM_OK;
}

static bool write_all(int fd, const char *text, size_t length)
{
    while (length > 0) {
        const ssize_t written = write(fd, text, length);
        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            return false;
        }
        text += written;
        length -= (size_t)written;
    }
    return true;
}

/* A full or broken disk is a failure while running; whatever else keeps a file from being made (no
 * such folder, no permission, a folder of that name) is a bad path. */
static enum hlm_status fail_write(struct hlm_err *err, const char *path, int reason)
{
    const bool disk = reason == ENOSPC || reason == EDQUOT || reason == EIO || reason == EFBIG ||
                      reason == EPIPE || reason == ENOMEM || reason == EMFILE || reason == ENFILE;
    return hlm_fail(err, disk ? HLM_FAILED : HLM_INPUT, "cannot write %s: %s", path,
                    strerror(reason));
}

/* Devices and pipes can't be replaced by a rename (and /dev/null must not be). */
static enum hlm_status write_in_place(const char *path, const char *text, size_t length,
                                      struct hlm_err *err)
{
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return fail_write(err, path, errno);
    }
    const bool done = write_all(fd, text, length);
    const int reason = errno;
    if (close(fd) != 0 && done) {
        return fail_write(err, path, errno);
    }
    return done ? HLM_OK : fail_write(err, path, reason);
}

/* Opens a new file beside `path`; its name goes to `temporary`. Not mkstemp, whose files only their
 * owner can read. -1 with errno on failure. */
static int open_temporary(const char *path, char *temporary, size_t size)
{
    enum { MAX_TRIES = 100 };
    for (int i = 0; i < MAX_TRIES; i++) {
        if (snprintf(temporary, size, "%s.tmp%ld-%d", path, (long)getpid(), i) >= (int)size) {
            errno = ENAMETOOLONG;
            return -1;
        }
        const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) {
            return fd;
        }
    }
    return -1;
}

static enum hlm_status write_and_rename(const char *shown, const char *path, const char *text,
                                        size_t length, struct hlm_err *err)
{
    char temporary[PATH_MAX];
    const int fd = open_temporary(path, temporary, sizeof temporary);
    if (fd < 0) {
        return fail_write(err, shown, errno);
    }
    int reason = write_all(fd, text, length) && fsync(fd) == 0 ? 0 : errno;
    if (close(fd) != 0 && reason == 0) {
        reason = errno;
    }
    if (reason == 0 && rename(temporary, path) != 0) {
        reason = errno;
    }
    if (reason != 0) {
        unlink(temporary);
        return fail_write(err, shown, reason);
    }
    return HLM_OK;
}

enum hlm_status hlm_file_write(const char *path, const char *text, size_t length,
                               struct hlm_err *err)
{
    if (is_standard(path)) {
        const bool done = fflush(stdout) == 0 && write_all(STDOUT_FILENO, text, length);
        return done ? HLM_OK : fail_write(err, "stdout", errno);
    }
    struct stat about;
    if (stat(path, &about) != 0) {
        return write_and_rename(path, path, text, length, err);
    }
    if (S_ISDIR(about.st_mode)) {
        return fail_write(err, path, EISDIR);
    }
    if (!S_ISREG(about.st_mode)) {
        return write_in_place(path, text, length, err);
    }
    /* A link keeps pointing at the file, which gets the new content. */
    char real[PATH_MAX];
    return write_and_rename(path, realpath(path, real) == NULL ? path : real, text, length, err);
}

static bool make_one_folder(const char *path)
{
    struct stat about;
    if (mkdir(path, 0777) == 0) {
        return true;
    }
    const int reason = errno;
    if (stat(path, &about) == 0) {
        errno = S_ISDIR(about.st_mode) ? 0 : ENOTDIR;
        return errno == 0;
    }
    errno = reason;
    return false;
}

enum hlm_status hlm_file_make_folder(const char *path, struct hlm_err *err)
{
    char part[PATH_MAX];
    const size_t length = strlen(path);
    if (length == 0 || length >= sizeof part) {
        return hlm_fail(err, HLM_INPUT, "cannot make the folder \"%s\": %s", path,
                        strerror(length == 0 ? ENOENT : ENAMETOOLONG));
    }
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') {
            continue;
        }
        memcpy(part, path, i);
        part[i] = '\0';
        if (!make_one_folder(part)) {
            return hlm_fail(err, HLM_INPUT, "cannot make the folder %s: %s", part, strerror(errno));
        }
    }
    return HLM_OK;
}
