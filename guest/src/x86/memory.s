# The memory functions that rustc's output calls, which the core built for a hosted target leaves to the C library.
# In assembly, since loops in Rust may be compiled into calls of themselves. By words: TCG is slow at `rep movsb`.
.section .text.memory, "ax", @progbits
.global memcpy
memcpy:
    mov     %rdi, %rax
    mov     %rdx, %rcx
    shr     $3, %rcx
    rep movsq
    mov     %edx, %ecx
    and     $7, %ecx
    rep movsb
    ret

.global memmove
memmove:
    mov     %rdi, %rax
    sub     %rsi, %rax
    cmp     %rdx, %rax          # unsigned: forward is right unless 0 <= to - from < length
    jae     memcpy
    mov     %rdi, %rax
    std
    lea     -1(%rdi,%rdx), %rdi
    lea     -1(%rsi,%rdx), %rsi
    mov     %edx, %ecx
    and     $7, %ecx
    rep movsb
    sub     $7, %rdi
    sub     $7, %rsi
    mov     %rdx, %rcx
    shr     $3, %rcx
    rep movsq
    cld
    ret

.global memset
memset:
    mov     %rdi, %r8
    movzbl  %sil, %esi
    movabs  $0x0101010101010101, %rax
    imul    %rsi, %rax
    mov     %rdx, %rcx
    shr     $3, %rcx
    rep stosq
    mov     %edx, %ecx
    and     $7, %ecx
    rep stosb
    mov     %r8, %rax
    ret

.global memcmp
.global bcmp
memcmp:
bcmp:
    xor     %eax, %eax
    mov     %rdx, %rcx
    cmp     %rax, %rax          # equal, should the length be 0
    repe cmpsb
    je      1f
    movzbl  -1(%rdi), %eax
    movzbl  -1(%rsi), %edx
    sub     %edx, %eax
1:  ret

.global strlen
strlen:
    xor     %eax, %eax
1:  cmpb    $0, (%rdi,%rax)
    je      2f
    inc     %rax
    jmp     1b
2:  ret
