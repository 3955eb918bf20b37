from cmg.downstream.avs import main

if __name__ == "__main__":
    main()
