/* freeze: holds one thread of a process still, as a thread that hangs in a driver is still: the
 * process is not stopped and its other threads run on.
 *
 * Usage: freeze TID. Prints "frozen" once the thread stands, then waits for its end; ends with 77
 * where the system does not let it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

int main(int argc, char **argv)
{
    const pid_t thread = argc == 2 ? (pid_t)strtol(argv[1], NULL, 10) : 0;
    if (thread <= 0) {
        fprintf(stderr, "usage: freeze TID\n");
        return 2;
    }
    int status = 0;
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) != 0 ||
        ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) != 0 ||
        waitpid(thread, &status, __WALL) != thread) {
        fprintf(stderr, "freeze: cannot hold thread %ld: %s\n", (long)thread, strerror(errno));
        return 77;
    }
    printf("frozen\n");
    fflush(stdout);
    while (waitpid(thread, &status, __WALL) == thread && !WIFEXITED(status) &&
           !WIFSIGNALED(status)) {
    }
    return 0;
}
