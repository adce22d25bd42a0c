# The accelerator probe (src/vdsm/adapters/accelerator.py): enters 64-bit mode, spins 50 million times and leaves through
# isa-debug-exit at port 0xf4 with exit status (0x11 << 1) | 1 = 35. Where KVM emulates each instruction this takes a minute.
#   as --32 probe.S -o probe.o && ld -m elf_i386 -Ttext=0x7c00 --oformat=binary -o probe.bin probe.o
.code16
.globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movl $0x1000, %edi                  # empty page tables at 0x1000, 0x2000, 0x3000
    movl %edi, %cr3
    xorl %eax, %eax
    movl $3072, %ecx
    rep stosl
    movl $0x2003, 0x1000                # the first 2 MiB onto themselves
    movl $0x3003, 0x2000
    movl $0x83, 0x3000
    movl %cr4, %eax                     # PAE
    orl $0x20, %eax
    movl %eax, %cr4
    movl $0xC0000080, %ecx              # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax                     # protection and paging: long mode
    orl $0x80000001, %eax
    movl %eax, %cr0
    lgdt table
    ljmp $8, $long
.code64
long:
    movl $50000000, %ecx
1:  decl %ecx
    jnz 1b
    movw $0xf4, %dx
    movb $0x11, %al
    outb %al, %dx
2:  hlt
    jmp 2b
.align 8
gdt:
    .quad 0
    .quad 0x00209A0000000000
    .quad 0x0000920000000000
table:
    .word 23
    .long gdt
.org 510
.word 0xaa55
