#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/check.h"

struct scene {
    struct hlm_arena *arena;
    struct hlm_err err;
    char folder[64];
};

static int enter(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    scene->arena = hlm_arena_new();
    snprintf(scene->folder, sizeof scene->folder, P_tmpdir "/hlm_test_file_XXXXXX");
    *state = scene;
    return mkdtemp(scene->folder) == NULL;
}

static int leave(void **state)
{
    struct scene *scene = *state;
    char *command = hlm_arena_printf(scene->arena, "rm -rf '%s'", scene->folder);
    const int result = system(command);
    hlm_arena_free(scene->arena);
    free(scene);
    return result;
}

static const char *path_of(struct scene *scene, const char *name)
{
    return hlm_arena_printf(scene->arena, "%s/%s", scene->folder, name);
}

static int count_entries(const char *folder)
{
    int num = 0;
    DIR *listing = opendir(folder);
    for (const struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        num += entry->d_name[0] != '.';
    }
    closedir(listing);
    return num;
}

static void check_content(struct scene *scene, const char *path, const char *expected,
                          size_t length)
{
    const char *text = NULL;
    size_t found = 0;
    check_ok(hlm_file_read(scene->arena, path, 1 << 20, &text, &found, &scene->err), &scene->err);
    assert_int_equal(found, length);
    assert_memory_equal(text, expected, length);
    assert_int_equal(text[length], '\0');
}

static void what_is_written_is_read(void **state)
{
    struct scene *scene = *state;
    const char *path = path_of(scene, "a.json");
    check_ok(hlm_file_write(path, "one\0two", 7, &scene->err), &scene->err);
    check_content(scene, path, "one\0two", 7);
    check_ok(hlm_file_write(path, "", 0, &scene->err), &scene->err);
    check_content(scene, path, "", 0);
    assert_int_equal(count_entries(scene->folder), 1); /* no temporary file stays */
}

static void large_file(void **state)
{
    struct scene *scene = *state;
    const size_t length = 700001; /* not a multiple of a read */
    char *bytes = hlm_arena_alloc(scene->arena, length, 1);
    for (size_t i = 0; i < length; i++) {
        bytes[i] = (char)(i * i % 251);
    }
    const char *path = path_of(scene, "large");
    check_ok(hlm_file_write(path, bytes, length, &scene->err), &scene->err);
    check_content(scene, path, bytes, length);
}

static void permissions_follow_the_umask(void **state)
{
    struct scene *scene = *state;
    const char *path = path_of(scene, "a");
    const mode_t old = umask(022);
    check_ok(hlm_file_write(path, "x", 1, &scene->err), &scene->err);
    umask(old);
    struct stat about;
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0644);
}

static void a_link_keeps_pointing_at_its_file(void **state)
{
    struct scene *scene = *state;
    const char *target = path_of(scene, "target"), *link = path_of(scene, "link");
    check_ok(hlm_file_write(target, "old", 3, &scene->err), &scene->err);
    assert_int_equal(symlink("target", link), 0);
    check_ok(hlm_file_write(link, "new", 3, &scene->err), &scene->err);
    struct stat about;
    assert_int_equal(lstat(link, &about), 0);
    assert_true(S_ISLNK(about.st_mode));
    check_content(scene, target, "new", 3);
}

static void devices_are_written_in_place(void **state)
{
    struct scene *scene = *state;
    check_ok(hlm_file_write("/dev/null", "x", 1, &scene->err), &scene->err);
    struct stat about;
    assert_int_equal(stat("/dev/null", &about), 0);
    assert_true(S_ISCHR(about.st_mode));
}

static void a_full_disk_is_a_failure(void **state)
{
    struct scene *scene = *state;
    if (access("/dev/full", W_OK) != 0) {
        skip();
    }
    check_fails(hlm_file_write("/dev/full", "x", 1, &scene->err), HLM_FAILED, &scene->err,
                "cannot write /dev/full: No space left on device");
}

/* A limit on the size of files stands for the disk that fills up half-way. */
static int write_with_limit(const char *path)
{
    const struct rlimit limit = {.rlim_cur = 1000, .rlim_max = 1000};
    struct hlm_err err;
    char text[5000];
    memset(text, 'x', sizeof text);
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) {
        return 100;
    }
    const enum hlm_status status = hlm_file_write(path, text, sizeof text, &err);
    return strstr(err.text, "File too large") == NULL ? 101 : (int)status;
}

static void a_failed_write_keeps_the_old_file_only(void **state)
{
    struct scene *scene = *state;
    const char *path = path_of(scene, "a");
    check_ok(hlm_file_write(path, "old", 3, &scene->err), &scene->err);
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        _exit(write_with_limit(path));
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), HLM_FAILED);
    check_content(scene, path, "old", 3);
    assert_int_equal(count_entries(scene->folder), 1);
}

static void bad_paths_to_write(void **state)
{
    struct scene *scene = *state;
    check_fails(hlm_file_write(path_of(scene, "none/a"), "x", 1, &scene->err), HLM_INPUT,
                &scene->err, "none/a: No such file or directory");
    check_fails(hlm_file_write(scene->folder, "x", 1, &scene->err), HLM_INPUT, &scene->err,
                "Is a directory");
    check_fails(hlm_file_write("", "x", 1, &scene->err), HLM_INPUT, &scene->err, "cannot write");
}

static void bad_paths_to_read(void **state)
{
    struct scene *scene = *state;
    const char *text = "untouched";
    size_t length = 9;
    check_fails(
        hlm_file_read(scene->arena, path_of(scene, "none"), 10, &text, &length, &scene->err),
        HLM_INPUT, &scene->err, "none: No such file or directory");
    check_fails(hlm_file_read(scene->arena, scene->folder, 10, &text, &length, &scene->err),
                HLM_INPUT, &scene->err, "Is a directory");
    const char *path = path_of(scene, "a");
    check_ok(hlm_file_write(path, "12345678", 8, &scene->err), &scene->err);
    check_fails(hlm_file_read(scene->arena, path, 7, &text, &length, &scene->err), HLM_INPUT,
                &scene->err, "a: expected at most 7 bytes, found more");
    assert_string_equal(text, "untouched");
    assert_int_equal(length, 9);
    check_ok(hlm_file_read(scene->arena, path, 8, &text, &length, &scene->err), &scene->err);
    assert_string_equal(text, "12345678");
}

/* Runs in a child whose stdin and stdout are files. */
static int copy_standard(const char *from, const char *to)
{
    if (freopen(from, "r", stdin) == NULL || freopen(to, "w", stdout) == NULL) {
        return 100;
    }
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const char *text = NULL;
    size_t length = 0;
    printf("before ");
    enum hlm_status status = hlm_file_read(arena, "-", 100, &text, &length, &err);
    if (status == HLM_OK) {
        status = hlm_file_write("-", text, length, &err);
    }
    hlm_arena_free(arena);
    return (int)status;
}

static void a_dash_is_stdin_and_stdout(void **state)
{
    struct scene *scene = *state;
    const char *from = path_of(scene, "from"), *to = path_of(scene, "to");
    check_ok(hlm_file_write(from, "hello", 5, &scene->err), &scene->err);
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        _exit(copy_standard(from, to));
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
    check_content(scene, to, "before hello", 12);
}

static void folders_with_their_parents(void **state)
{
    struct scene *scene = *state;
    check_ok(hlm_file_make_folder(path_of(scene, "a/b//c/"), &scene->err), &scene->err);
    check_ok(hlm_file_make_folder(path_of(scene, "a/b"), &scene->err), &scene->err);
    struct stat about;
    assert_int_equal(stat(path_of(scene, "a/b/c"), &about), 0);
    assert_true(S_ISDIR(about.st_mode));

    check_ok(hlm_file_write(path_of(scene, "file"), "x", 1, &scene->err), &scene->err);
    check_fails(hlm_file_make_folder(path_of(scene, "file/b"), &scene->err), HLM_INPUT, &scene->err,
                "Not a directory");
    check_fails(hlm_file_make_folder("", &scene->err), HLM_INPUT, &scene->err, "cannot make");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_is_read, enter, leave),
        cmocka_unit_test_setup_teardown(large_file, enter, leave),
        cmocka_unit_test_setup_teardown(permissions_follow_the_umask, enter, leave),
        cmocka_unit_test_setup_teardown(a_link_keeps_pointing_at_its_file, enter, leave),
        cmocka_unit_test_setup_teardown(devices_are_written_in_place, enter, leave),
        cmocka_unit_test_setup_teardown(a_full_disk_is_a_failure, enter, leave),
        cmocka_unit_test_setup_teardown(a_failed_write_keeps_the_old_file_only, enter, leave),
        cmocka_unit_test_setup_teardown(bad_paths_to_write, enter, leave),
        cmocka_unit_test_setup_teardown(bad_paths_to_read, enter, leave),
        cmocka_unit_test_setup_teardown(a_dash_is_stdin_and_stdout, enter, leave),
        cmocka_unit_test_setup_teardown(folders_with_their_parents, enter, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
