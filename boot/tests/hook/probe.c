/* The program in the test images: does what its arguments say and prints what came of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void cat(const char *path) {
    char buffer[4096];
    ssize_t length;
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        printf("cat %s: %s\n", path, strerror(errno));
        return;
    }
    fflush(stdout);
    while ((length = read(fd, buffer, sizeof buffer)) > 0)
        write(1, buffer, length);
    close(fd);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *path = strchr(argv[i], ':');
        struct stat meta;
        if (path)
            *path++ = 0;
        if (!strcmp(argv[i], "cat")) {
            cat(path);
        } else if (!strcmp(argv[i], "write")) {
            int fd = open(path, O_WRONLY | O_CREAT, 0644);
            int done = fd >= 0 && write(fd, "x", 1) == 1;
            printf("write %s: %s\n", path, done ? "done" : strerror(errno));
        } else if (!strcmp(argv[i], "stat")) {
            if (lstat(path, &meta))
                printf("stat %s: %s\n", path, strerror(errno));
            else
                printf("stat %s: %o %u:%u\n", path, meta.st_mode, meta.st_uid, meta.st_gid);
        } else if (!strcmp(argv[i], "pwd")) {
            char buffer[4096];
            printf("pwd %s\n", getcwd(buffer, sizeof buffer) ? buffer : strerror(errno));
        }
        fflush(stdout);
    }
    return 0;
}
