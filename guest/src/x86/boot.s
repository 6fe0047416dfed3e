# From the loader (32 bits, paging off, %ebx = start info) to Rust, and from an interrupt to Rust and back.

# The ELF note by which QEMU finds the entry. It reads an eight-byte address, and pads the name to the segment's
# alignment: both the .quad and the alignment of 4 matter.
.section .note.pvh, "a", @note
    .balign 4
    .long 4                     # length of the name
    .long 8                     # length of the address
    .long 18                    # a 32-bit entry
    .asciz "Xen"
    .quad pvh_start32

.section .text.boot, "ax", @progbits
.code32
.global pvh_start32
pvh_start32:
    cli
    cld
    mov     %ebx, %esi          # start info

    mov     $__bss_start, %edi
    mov     $__bss_end, %ecx
    sub     %edi, %ecx
    shr     $2, %ecx
    xor     %eax, %eax
    rep stosl

    # Addresses 0 to 4 GiB map to themselves, by pages of 2 MiB: QEMU's usual CPU has none of 1 GiB.
    mov     $boot_pdpt + 3, %eax
    mov     %eax, boot_pml4
    mov     $boot_pd + 3, %eax
    xor     %ecx, %ecx
1:  mov     %eax, boot_pdpt(,%ecx,8)
    add     $4096, %eax
    inc     %ecx
    cmp     $4, %ecx
    jne     1b
    mov     $0x83, %eax         # present, writable, 2 MiB
    xor     %ecx, %ecx
2:  mov     %eax, boot_pd(,%ecx,8)
    add     $0x200000, %eax
    inc     %ecx
    cmp     $2048, %ecx
    jne     2b

    call    enable_long_mode
    lgdt    boot_gdt_pointer
    ljmp    $0x08, $start64

# Turns on paging, long mode and SSE. The caller then loads a 64-bit code segment.
.global enable_long_mode
enable_long_mode:
    mov     $boot_pml4, %eax
    mov     %eax, %cr3
    mov     %cr4, %eax
    or      $0x620, %eax        # PAE, OSFXSR, OSXMMEXCPT
    mov     %eax, %cr4
    mov     $0xc0000080, %ecx   # EFER
    rdmsr
    or      $0x100, %eax        # LME
    wrmsr
    mov     %cr0, %eax
    and     $0x9ffffff3, %eax   # CD, NW, EM and TS off
    or      $0x80010022, %eax   # PG, WP, NE, MP
    mov     %eax, %cr0
    ret

.code64
start64:
    mov     $0x10, %eax
    mov     %eax, %ds
    mov     %eax, %es
    mov     %eax, %ss
    xor     %eax, %eax
    mov     %eax, %fs
    mov     %eax, %gs
    lea     boot_stack_top(%rip), %rsp
    xor     %ebp, %ebp
    fninit
    pushq   $0x1f80
    ldmxcsr (%rsp)
    add     $8, %rsp
    mov     %esi, %edi
    call    guest_start         # with %rsp a multiple of 16; does not return
    ud2

.section .rodata.boot, "a", @progbits
.global boot_gdt_pointer
boot_gdt_pointer:
    .word 23
    .long boot_gdt
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08 code, 64 bits
    .quad 0x00cf93000000ffff    # 0x10 data

.section .bss.boot, "aw", @nobits
.balign 4096
.global boot_pml4
boot_pml4:  .skip 4096
boot_pdpt:  .skip 4096
boot_pd:    .skip 4 * 4096
boot_stack: .skip 256 * 1024
boot_stack_top:

# 256 entries, 16 bytes apart, each of which leaves an error code and its vector on the stack.
.section .text.isr, "ax", @progbits
.balign 16
.global interrupt_entries
interrupt_entries:
.set vector, 0
.rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    pushq   $0
    .endif
    pushq   $vector
    jmp     interrupt_common
    .set vector, vector + 1
.endr

# On a stack of its own, always: code for linux-gnu, core among it, keeps data in the 128 bytes below %rsp. It uses
# SSE registers for plain copies, too.
interrupt_common:
    cld
    push    %rax
    push    %rcx
    push    %rdx
    push    %rbx
    push    %rbp
    push    %rsi
    push    %rdi
    push    %r8
    push    %r9
    push    %r10
    push    %r11
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    mov     %rsp, %rdi
    mov     %rsp, %rbx
    sub     $512, %rsp
    and     $-16, %rsp
    fxsave64 (%rsp)
    call    guest_interrupt
    fxrstor64 (%rsp)
    mov     %rbx, %rsp
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %r11
    pop     %r10
    pop     %r9
    pop     %r8
    pop     %rdi
    pop     %rsi
    pop     %rbp
    pop     %rbx
    pop     %rdx
    pop     %rcx
    pop     %rax
    add     $16, %rsp
    iretq
