/* The driver's library as far as the programs of hlmplan look at it: it is there. */
int hlm_emulated_driver(void);

__attribute__((visibility("default"))) int hlm_emulated_driver(void)
{
    return 1;
}
