# Where another CPU begins: in real mode, in a page below 1 MiB, to which these bytes are copied (PAGE in smp.rs).
.set PAGE, 0x8000

.section .rodata.ap, "a", @progbits
.global ap_code, ap_code_end
.code16
ap_code:
    cli
    cld
    xor     %ax, %ax
    mov     %ax, %ds
    lgdtl   PAGE + ap_gdt_pointer - ap_code
    mov     %cr0, %eax
    or      $1, %eax
    mov     %eax, %cr0
    ljmpl   $0x08, $ap32
.balign 4
ap_gdt_pointer:
    .word 23
    .long PAGE + ap_gdt - ap_code
.balign 8
ap_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    # code, 32 bits
    .quad 0x00cf93000000ffff    # data
ap_code_end:

.section .text.ap, "ax", @progbits
.code32
ap32:
    mov     $0x10, %eax
    mov     %eax, %ds
    mov     %eax, %es
    mov     %eax, %ss
    mov     ap_stack, %esp
    call    enable_long_mode
    lgdt    boot_gdt_pointer
    ljmp    $0x08, $ap64
.code64
ap64:
    mov     ap_stack(%rip), %rsp
    xor     %eax, %eax
    mov     %eax, %fs
    mov     %eax, %gs
    xor     %ebp, %ebp
    fninit
    pushq   $0x1f80
    ldmxcsr (%rsp)
    add     $8, %rsp
    call    guest_ap_start
    ud2

.section .bss.ap, "aw", @nobits
.balign 8
.global ap_stack
ap_stack: .skip 8
