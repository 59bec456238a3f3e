/* The init of a floor guest. What it does is chosen by the kernel command line:
 *   floor=off    ends at once
 *   floor=echo   loads the modules the product loads, then sends back what comes from the port `floor`
 * It is the least that any program between these drives and this kernel could do. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(void) { reboot(RB_AUTOBOOT); for (;;) pause(); }

static void load_modules(void) {
    char line[512];
    FILE *list = fopen("/modules.list", "r");
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        int fd = open(line, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) { syscall(SYS_finit_module, fd, "", 0); close(fd); }
    }
    if (list) fclose(list);
}

static int open_port(void) {
    for (;;) {
        DIR *dir = opendir("/sys/class/virtio-ports");
        struct dirent *entry;
        while (dir && (entry = readdir(dir))) {
            char path[300], name[64] = "";
            snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
            FILE *file = fopen(path, "r");
            if (file) { if (!fgets(name, sizeof name, file)) name[0] = 0; fclose(file); }
            if (!strncmp(name, "floor", 5)) {
                snprintf(path, sizeof path, "/dev/%s", entry->d_name);
                closedir(dir);
                return open(path, O_RDWR);
            }
        }
        if (dir) closedir(dir);
        usleep(10000);
    }
}

int main(void) {
    char line[4096] = "";
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    mount("dev", "/dev", "devtmpfs", 0, "");
    FILE *file = fopen("/proc/cmdline", "r");
    if (file) { if (!fgets(line, sizeof line, file)) line[0] = 0; fclose(file); }
    if (!strstr(line, "floor=echo")) end();
    load_modules();
    int port = open_port();
    static char buffer[65536];
    if (write(port, "R", 1) != 1) end();
    for (;;) {
        ssize_t got = read(port, buffer, sizeof buffer);
        if (got <= 0) { usleep(1000); continue; }
        for (ssize_t at = 0; at < got;) {
            ssize_t put = write(port, buffer + at, got - at);
            if (put <= 0) end();
            at += put;
        }
    }
}
