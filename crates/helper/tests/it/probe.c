/* Code that took a VMM over: makes whatever system call it is asked for, over the API socket of its jail.
 *
 * One line is one call: its number, then arguments: a number, s:TEXT (a string), b:HEX (bytes the kernel may write to).
 * The answer is the result, the error number, and the bytes of every b: argument.
 * Built as a static program by the tests. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define BYTES_MAX 4096

static unsigned char bytes[6][BYTES_MAX];
static size_t lengths[6];

static size_t unhex(const char *hex, unsigned char *to) {
    size_t n = 0;
    unsigned int byte;
    for (; n < BYTES_MAX && sscanf(hex + 2 * n, "%2x", &byte) == 1; n++) to[n] = (unsigned char)byte;
    return n;
}

static void answer(char *line, FILE *out) {
    long args[6] = {0};
    char *save = NULL;
    char *word = strtok_r(line, " \n", &save);
    if (word == NULL) return;
    long number = strtol(word, NULL, 0);
    memset(lengths, 0, sizeof lengths);
    for (int i = 0; i < 6 && (word = strtok_r(NULL, " \n", &save)) != NULL; i++) {
        if (strncmp(word, "s:", 2) == 0) {
            args[i] = (long)(word + 2);
        } else if (strncmp(word, "b:", 2) == 0) {
            lengths[i] = unhex(word + 2, bytes[i]);
            args[i] = (long)bytes[i];
        } else {
            args[i] = (long)strtoull(word, NULL, 0);
        }
    }
    errno = 0;
    long result = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
    fprintf(out, "%ld %d", result, result < 0 ? errno : 0);
    for (int i = 0; i < 6; i++) {
        if (lengths[i] > 0) fputc(' ', out);
        for (size_t n = 0; n < lengths[i]; n++) fprintf(out, "%02x", bytes[i][n]);
    }
    fputc('\n', out);
    fflush(out);
}

int main(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/sock/api.sock"};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0) {
        perror("probe");
        return 1;
    }
    puts("probe: listening");
    fflush(stdout);
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) return 1;
        FILE *in = fdopen(client, "r"), *out = fdopen(dup(client), "w");
        static char line[BYTES_MAX * 4];
        while (in != NULL && out != NULL && fgets(line, sizeof line, in) != NULL) answer(line, out);
        fclose(in);
        fclose(out);
    }
}
