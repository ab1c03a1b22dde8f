/* test_recover_late.c: every row of the verdict table holds as well where a segment is given out before
 * it is proved: what is found once it is, is the same.
 *
 * Method: the tests of test_recover.c, with segments of any size proved in tiny pieces.
 */
#define LOG_LATE_MIN 256u
#include "test_recover.c"
